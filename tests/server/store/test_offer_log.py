from fedhw_server.store.offer_log import KEPT_OFFERS


def test_offers_are_remembered_but_not_for_ever(fleet):
    first = fleet.offer_log.begin(1, 2)
    fleet.offer_log.end(first, 2, 0.5)
    second = fleet.offer_log.begin(1, 3)
    assert [(r.number, r.seconds, r.answered) for r in fleet.offer_log.all()] == [
        (first, 0.5, 2),
        (second, None, None),
    ]
    assert [each.number for each in fleet.offer_log.all(first)] == [second]
    with fleet.database.transaction() as db:
        db.execute("UPDATE rounds SET number = ? WHERE number = ?", (KEPT_OFFERS + 1, second))
    assert [each.number for each in fleet.offer_log.all()] == [first, KEPT_OFFERS + 1]
    fleet.offer_log.begin(1, 3)
    assert [each.number for each in fleet.offer_log.all()] == [KEPT_OFFERS + 1, KEPT_OFFERS + 2]
