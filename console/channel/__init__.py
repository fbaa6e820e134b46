"""What a connection may cost before anything is done for it: bounds on sizes, times, numbers and work, kept
where bytes come in. docs/decisions/0013 says why here.
"""
