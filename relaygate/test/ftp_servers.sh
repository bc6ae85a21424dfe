#!/usr/bin/env bash
# Gets the FTP servers that the tests run:  relaygate/test/ftp_servers.sh    (Debian 12, as root)
#
# Debian lets only one FTP server be installed, and none is wanted here: an installed one would be
# started at boot. So the packages are unpacked into a folder of the user's own, and only the
# libraries that they need are installed. The folder is $RELAYGATE_FTP_SERVERS where that is set,
# and otherwise relaygate/ftp below the user's caches. What is there already is left as it is.
set -euo pipefail

prefix=${RELAYGATE_FTP_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/relaygate/ftp}
servers=(vsftpd proftpd pure-ftpd)
packages=(vsftpd proftpd-core proftpd-mod-crypto pure-ftpd)
libraries=(
    libacl1 libcap2 libhiredis0.14 libidn2-0 libmemcached11 libmemcachedutil2 libncursesw6
    libpam0g libpcre2-8-0 libpcre2-posix3 libsodium23 libssl3 libwrap0
)

# Tells whether all servers are there, with all of their libraries.
complete() {
    local server
    for server in "${servers[@]}"; do
        [ -x "$prefix/usr/sbin/$server" ] || return 1
        if ldd "$prefix/usr/sbin/$server" | grep -q 'not found'; then return 1; fi
    done
    [ -e "$prefix/usr/lib/proftpd/mod_tls.so" ] && [ -x "$prefix/usr/bin/pure-pw" ]
}

if complete; then
    echo "the FTP servers are in $prefix"
    exit 0
fi

arriving=$(mktemp -d)
trap 'rm -rf "$arriving"' EXIT
chmod 755 "$arriving"  # mktemp makes it private, and dpkg-deb gives its mode to the prefix

export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends --no-upgrade "${libraries[@]}"
mkdir "$arriving/packages" "$arriving/tree"
(cd "$arriving/packages" && apt-get download -q -o APT::Sandbox::User=root "${packages[@]}")
for package in "$arriving"/packages/*.deb; do
    dpkg-deb --extract "$package" "$arriving/tree"
done

mkdir -p "$prefix"
cp -a --remove-destination "$arriving/tree/." "$prefix"
if ! complete; then
    echo "something is missing in $prefix:" >&2
    for server in "${servers[@]}"; do
        ldd "$prefix/usr/sbin/$server" | grep 'not found' >&2 || true
    done
    exit 1
fi
echo "the FTP servers are in $prefix"
