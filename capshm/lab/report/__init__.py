"""The report: what results folders say, on one page that needs no network, and in pictures.

    runs          a folder as the rest reads it: what was measured, by cell and round
    exhibit       a picture, the table of what it shows, and the words that go with them
    palette       colours that colour-blind people can tell apart, and hatches, dashes and markers beside them
    drawing       how every picture looks, and its files
    overheads     bars: what each configuration costs, with intervals
    pauses        how long the machine stood, each time
    growth        curves: how pauses and overheads grow, and how steeply
    maps          where a segment held its tags, over time
    differences   permutation tests of each pair, corrected for their number
    answers       the questions that the project asks, answered with intervals as far as the folders can
    page          report.html
    writing       everything into a folder
    browser       looks at the page, for tests and for the README's picture

Every kind of picture is a module with `exhibits(run)`. It imports matplotlib, so nothing that forks may import it.
"""
