`relaygate unban` says of how many networks the ban was not its own node's: who has set it refuses those clients until it is lifted there as well.
