"""The typed properties of the open world: who has them, what their values look like, which are close in meaning."""

from __future__ import annotations

from dataclasses import dataclass

from kblam.data import values as v
from kblam.data.values import Maker

KINDS = ("person", "place", "organisation", "project", "product", "work", "creature", "thing")


@dataclass(frozen=True)
class Property:
    """One typed property.

    Args:
        name: as it stands in a triple.
        kinds: the kinds of entity that usually have it.
        make: draws a value.
        held_out: only entities of the test side have it.
    """

    name: str
    kinds: frozenset[str]
    make: Maker
    held_out: bool = False


def _of(kinds: str, make: Maker, *names: str, held_out: str = "") -> list[Property]:
    who = frozenset(KINDS if kinds == "any" else kinds.split())
    return [Property(name, who, make, name in held_out.split(", ")) for name in names]


TYPED: dict[str, Property] = {
    prop.name: prop
    for prop in (
        # people
        *_of("person", v.job, "occupation"),
        *_of("person", v.city, "birthplace", "home town", "place of residence"),
        *_of("person", v.date, "date of birth", "wedding day", "date of arrival", held_out="date of arrival"),
        *_of("person", v.person, "spouse", "teacher", "rival", "assistant", "neighbor", held_out="neighbor"),
        *_of("person", v.food, "favorite food"),
        *_of("person", v.hobby, "hobby"),
        *_of("person", v.phrase, "pet"),
        *_of("person", v.noun, "instrument"),
        *_of("person", v.money, "salary"),
        *_of("person organisation", v.email, "email address"),
        *_of(
            "person organisation place",
            v.phone,
            "phone number",
            "fax number",
            "emergency number",
            held_out="fax number",
        ),
        # places
        *_of("place", v.city, "capital", "largest city", "twin town", held_out="largest city"),
        *_of("place", v.person, "mayor", "patron"),
        *_of("place", v.whole, "population"),
        *_of("place", v.amount("square kilometers", "hectares", "acres"), "area"),
        *_of("place", v.amount("meters", "feet"), "elevation"),
        *_of("place", v.noun, "currency"),
        *_of("place", v.listing, "main export", "climate"),
        *_of("place", v.food, "national dish"),
        *_of("place", v.long_number, "postal code"),
        *_of("place", v.foreign("Turkish", "Greek", "Russian", "Japanese", "Polish", "Norwegian"), "local name"),
        # organisations
        *_of("organisation project product place", v.person, "founder", "owner", "director"),
        *_of("organisation project", v.person, "lead engineer", "accountant", "sponsor"),
        *_of("organisation", v.city, "headquarters"),
        *_of("organisation place", v.year, "founding year"),
        *_of("organisation", v.money, "revenue"),
        *_of("organisation", v.whole, "number of employees", "number of members"),
        *_of("organisation place product", v.motto, "motto", "slogan"),
        *_of("organisation", v.website, "website"),
        *_of("organisation", v.phrase, "chief product"),
        *_of("organisation place", v.hours, "opening hours", "visiting time", held_out="visiting time"),
        *_of("organisation place", v.address, "address"),
        *_of("organisation person", v.long_number, "account number", "registration number"),
        # projects
        *_of("project work", v.date, "start date", "deadline", "release date", "expiry date", held_out="expiry date"),
        *_of("project", v.money, "budget"),
        *_of("project", v.sentence, "main risk", "next step"),
        *_of("project", v.aim, "objective"),
        *_of("project", v.title, "code name"),
        *_of("project organisation", v.phrase, "status"),
        *_of("project organisation", v.long_number, "access code"),
        # products
        *_of("product", v.person, "inventor", "designer"),
        *_of("product", v.money, "price", "shipping fee", "deposit", "monthly fee", held_out="monthly fee"),
        *_of("product person creature", v.amount("kilograms", "pounds", "grams", "tons"), "weight"),
        *_of(
            "product person creature place",
            v.amount("meters", "centimeters", "inches", "feet"),
            "height",
            "length",
            "width",
        ),
        *_of("product creature thing", v.color, "color"),
        *_of("product thing", v.listing, "material", "ingredients"),
        *_of("product", v.code, "serial number", "model number"),
        *_of("product", v.version, "software version"),
        *_of("product", v.amount("newton meters", "foot-pounds"), "torque"),
        *_of("product", v.amount("milligrams", "milliliters", "drops a day", "tablets"), "dosage"),
        *_of("product", v.amount("volts", "kilovolts"), "voltage"),
        *_of("product", v.amount("watts", "kilowatts", "horsepower"), "power consumption"),
        *_of("product", v.amount("hours", "days", "minutes"), "battery life", "shelf life", held_out="shelf life"),
        *_of(
            "product thing",
            v.amount("degrees", "kelvin", "°C"),
            "melting point",
            "boiling point",
            "storage temperature",
            held_out="storage temperature",
        ),
        *_of("product", v.sentence, "warranty", "safety rule"),
        *_of("product organisation", v.title, "manufacturer", "supplier", "distributor", held_out="distributor"),
        # works
        *_of("work", v.person, "author", "publisher", "translator", "illustrator", held_out="translator"),
        *_of("work", v.person, "main character"),
        *_of("work", v.phrase, "genre"),
        *_of("work", v.city, "setting"),
        *_of("work", v.sentence, "first line", "dedication", held_out="dedication"),
        *_of("work", v.code, "catalog number"),
        *_of(
            "work",
            v.foreign("Spanish", "French", "German", "Polish", "Russian", "Italian", "Vietnamese", longest=5),
            "original title",
        ),
        # creatures
        *_of("creature", v.location, "habitat"),
        *_of("creature", v.listing, "diet"),
        *_of("creature", v.amount("years", "months", "days"), "lifespan"),
        *_of("creature", v.amount("centimeters", "meters"), "wingspan", held_out="wingspan"),
        *_of("creature product", v.amount("kilometers per hour", "miles per hour", "knots"), "top speed"),
        *_of("creature", v.latin, "scientific name"),
        *_of("creature", v.phrase, "natural enemy"),
        # anything
        *_of("any", v.description, "description"),
        *_of("project product organisation thing", v.aim, "purpose"),
        *_of("place organisation project", v.location, "location"),
        *_of("any", v.phrase, "symbol", "weakness"),
        *_of("any", v.sentence, "secret"),
        *_of("thing creature product", v.city, "origin"),
        *_of("any", v.title, "nickname", "successor"),
        *_of("any", v.decimal, "rating"),
        *_of("any", v.foreign("Polish"), "Polish name"),
        *_of("any", v.foreign("Greek"), "Greek name"),
        *_of("any", v.foreign("Japanese"), "Japanese name"),
        *_of("any", v.foreign("Russian", "Ukrainian"), "Slavic name"),
        *_of("any", v.foreign("Norwegian", "Danish"), "Nordic name"),
        *_of("thing", v.gloss, "meaning"),
    )
}

# Close in meaning, and each has an answer of its own: what the knowledge of an entity must be told apart by.
NEAR: tuple[tuple[str, ...], ...] = (
    ("founder", "owner", "director", "lead engineer", "sponsor", "accountant"),
    ("founder", "owner", "mayor", "patron"),
    ("founder", "owner", "inventor", "designer"),
    ("spouse", "teacher", "rival", "assistant", "neighbor"),
    ("author", "publisher", "translator", "illustrator", "main character"),
    ("manufacturer", "supplier", "distributor", "successor"),
    ("price", "shipping fee", "deposit", "monthly fee"),
    ("revenue", "budget"),
    ("birthplace", "home town", "place of residence"),
    ("capital", "largest city", "twin town"),
    ("motto", "slogan"),
    ("purpose", "objective", "next step", "main risk"),
    ("date of birth", "wedding day", "date of arrival"),
    ("start date", "deadline", "release date", "expiry date"),
    ("height", "weight", "length", "width"),
    ("phone number", "fax number", "emergency number", "account number"),
    ("serial number", "model number", "software version"),
    ("account number", "registration number", "access code"),
    ("number of employees", "number of members", "founding year"),
    ("population", "area", "elevation"),
    ("melting point", "boiling point", "storage temperature"),
    ("voltage", "power consumption", "battery life"),
    ("opening hours", "visiting time"),
    ("color", "material"),
    ("habitat", "origin"),
    ("lifespan", "top speed", "wingspan"),
    ("Polish name", "Greek name", "Japanese name", "Slavic name", "Nordic name"),
    ("favorite food", "national dish", "diet"),
    ("warranty", "safety rule"),
    ("first line", "dedication", "original title"),
    ("address", "email address", "website"),
)

# One meaning, or one that answers for the other: the second is never "missing" where the first is known.
SYNONYMS: tuple[frozenset[str], ...] = tuple(
    frozenset(group.split(", "))
    for group in (
        "price, cost, costs, fee, charge, list price, retail price",
        "color, colour, hue, shade",
        "occupation, job, profession, work, trade, career, position, role, title",
        "spouse, husband, wife, partner, mate",
        "birthplace, place of birth, origin, city of birth, native town",
        "home town, hometown, place of residence, residence, home, home city",
        "date of birth, birthday, birth date, birthdate, day of birth, year of birth",
        "headquarters, head office, seat, main office, location, address, site, place, position, whereabouts, habitat, "
        "setting, base",
        "founding year, year of foundation, foundation date, date of foundation, year founded, establishment, age, "
        "start date",
        "founder, creator, originator, establisher",
        "inventor, creator, originator, maker, discoverer",
        "designer, creator, architect, maker",
        "author, writer, creator, composer",
        "director, head, leader, manager, chief, boss, president, chairman, chief executive, ceo",
        "lead engineer, chief engineer, head engineer, head of engineering, technical director, engineer",
        "owner, proprietor, holder, possessor",
        "sponsor, patron, backer, donor",
        "mayor, head, leader, chief",
        "teacher, instructor, tutor, mentor, trainer",
        "rival, competitor, opponent, enemy, natural enemy",
        "phone number, telephone number, phone, telephone, number, contact",
        "email address, email, e-mail, mail, contact, address",
        "website, web page, homepage, url, web address, address, site",
        "weight, mass",
        "height, tallness, stature, elevation, altitude",
        "length, size, duration, extent, dimensions",
        "width, breadth, size",
        "area, size, surface, surface area",
        "population, number of inhabitants, inhabitants, number of people, size, people",
        "number of employees, staff, size, headcount, workforce, employees",
        "number of members, members, membership, size",
        "salary, wage, pay, income, earnings",
        "revenue, sales, turnover, income, earnings",
        "budget, funds, funding, cost, financing",
        "purpose, objective, aim, goal, use, function, mission, intention, target, object",
        "deadline, due date, end date, end, term, limit",
        "status, state, condition, situation",
        "release date, publication date, date of release, year of publication, publication",
        "code name, nickname, alias, other name, local name",
        "software version, version, edition, model",
        "material, ingredients, composition, substance, matter, content, contents, component",
        "manufacturer, maker, producer",
        "supplier, provider, source",
        "power consumption, power, energy consumption, energy, wattage",
        "dosage, dose, amount",
        "lifespan, life, life expectancy, age, length",
        "diet, food, favorite food",
        "genre, category, style, kind, type, class",
        "motto, saying, maxim",
        "slogan, tagline, catchphrase",
        "description, meaning, definition, summary, explanation, account, character, nature, explanation, identity",
        "opening hours, business hours, hours, visiting time, schedule",
        "currency, money",
        "main export, chief product, product, export, exports",
        "weakness, flaw, fault, defect, disadvantage, main risk, risk",
        "symbol, emblem, sign, mark, token, badge",
        "secret, mystery",
        "origin, source, provenance, beginning, cause",
        "instrument, tool",
        "rating, score, grade, evaluation",
        "top speed, maximum speed, speed, velocity, pace",
        "scientific name, latin name, species, slavic name",
        "national dish, dish, food",
        "twin town, sister city, partner",
        "warranty, guarantee",
        "postal code, zip code, postcode, address",
        "assistant, helper, aide, secretary",
        "Slavic name, Polish name, Russian name",
        "local name, Polish name, Greek name, Japanese name, Slavic name, Nordic name",
        "original title, title, name",
        "voltage, tension",
        "first line, opening, beginning, introduction",
        "safety rule, rule, law, regulation, instruction",
        "next step, plan",
    )
)
