"""The power study of the latency gate (METHOD, section 5): how often is its answer wrong, beside its peers?"""
