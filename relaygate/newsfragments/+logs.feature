Both nodes log as text or JSON, with one id for each session in both logs, and nothing that a peer
sends can forge a line.
