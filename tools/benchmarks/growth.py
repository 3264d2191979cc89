def growth(settings):
    yield from ()
