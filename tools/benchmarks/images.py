def inference(settings):
    yield from ()


def segment(settings):
    yield from ()
