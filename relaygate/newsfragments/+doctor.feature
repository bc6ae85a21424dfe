`relaygate doctor` walks the way of a session hop by hop, from the file to each backend, and says what is wrong where and what to do. What stands in the DMZ it asks for over the uplink.
