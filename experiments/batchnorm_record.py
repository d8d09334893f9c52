PLAIN_ARMS = ("none", "none_again")
BN_ARMS = ("bn", "bn_fixed", "bn_noisy")
ORDERS = {"iid": 0.0, "few": 0.25, "class": 1.0}


def assemble(config, seeds, rows):
    return rows
