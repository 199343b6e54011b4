"""What people say for one of several properties: only where the entity has no other property it could mean."""

from __future__ import annotations

LOOSE: dict[str, tuple[str, ...]] = {
    "Who leads {n}?": ("director", "lead engineer", "mayor", "founder", "owner", "commander", "coach"),
    "Who is in charge of {n}?": ("director", "lead engineer", "mayor", "owner", "commander", "organizer"),
    "Who runs {n}?": ("director", "owner", "mayor", "lead engineer", "operator", "organizer"),
    "Who heads {n}?": ("director", "lead engineer", "mayor"),
    "Who is responsible for {n}?": ("lead engineer", "director", "manufacturer", "maintainer", "assignee", "organizer"),
    "Who made {n}?": ("inventor", "designer", "manufacturer", "author", "founder"),
    "Who created {n}?": ("founder", "inventor", "designer", "author"),
    "Who pays for {n}?": ("sponsor", "owner"),
    "When did {n} start?": ("start date", "founding year", "first seen"),
    "When did {n} open?": ("founding year", "start date", "release date"),
    "When does {n} end?": ("deadline", "expiry date", "maturity date"),
    "How big is {n}?": (
        "area",
        "height",
        "length",
        "width",
        "population",
        "number of employees",
        "diameter",
        "seating capacity",
    ),
    "How much do I pay for {n}?": ("price", "monthly fee", "admission fee"),
    "Where do I find {n}?": ("location", "address", "headquarters", "habitat", "venue", "museum", "repository"),
    "How do I contact {n}?": ("phone number", "email address", "website", "fax number", "address", "contact person"),
    "What is {n} all about?": ("purpose", "objective", "description"),
    "Where is {n} from?": ("birthplace", "home town", "origin", "country", "region"),
    "What else is {n} known as?": ("nickname", "local name", "code name", "abbreviation", "synonym"),
}
