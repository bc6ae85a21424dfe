A deployment may consist of entries alone: `relaygate init` needs no service then, and the DMZ node's `policy.listen` may be absent where there is `policy.connect`.
