``relaygate pki`` makes the deployment's own CA, issues and renews the nodes' certificates, and shows
what PEM files are. Running nodes take up renewed files by themselves.
