A reload reads its files beside the sessions: lists of a hundred thousand networks no longer hold them up for half a second. Of many SIGHUPs
the first is heeded, and one that reads the files after the last.
