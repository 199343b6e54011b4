"""The typed properties of the open world: who has them, and what their values look like."""

from __future__ import annotations

from dataclasses import dataclass

from kblam.data import field_values as f
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
        # geography
        *_of("place", f.coordinate("N", "S"), "latitude"),
        *_of("place", f.coordinate("E", "W"), "longitude"),
        *_of("place organisation", f.zone, "time zone"),
        *_of("place organisation", f.land, "country", "region"),
        *_of("place", f.lands, "borders", held_out="borders"),
        *_of("place", f.tongue, "official language"),
        *_of("place", f.summit, "highest point"),
        # transport
        *_of("place organisation", f.station, "nearest station"),
        *_of("product place", v.city, "terminus", "home port"),
        *_of("product place", f.seats, "seating capacity"),
        *_of("product", v.amount("liters per 100 km", "miles per gallon", "liters an hour"), "fuel consumption"),
        *_of("product person", v.code, "number plate"),
        *_of("product place", v.title, "operator"),
        *_of("place project", v.amount("minutes", "hours", "days"), "travel time"),
        # physics
        *_of("thing product", v.amount("kg per cubic meter", "grams per liter", "g/cm³"), "density"),
        *_of("thing product", v.amount("W/(m·K)", "watts per meter kelvin"), "thermal conductivity"),
        *_of("thing product", v.amount("ohms", "kiloohms", "megaohms"), "electrical resistance"),
        *_of("thing product", f.ratio, "refractive index"),
        *_of("thing product", v.amount("Mohs", "Vickers", "Brinell", "Shore"), "hardness"),
        *_of(
            "thing product", v.amount("megapascals", "newtons", "psi"), "tensile strength", held_out="tensile strength"
        ),
        # chemistry
        *_of("thing product", f.formula, "chemical formula"),
        *_of("thing", v.amount("g/mol", "grams per mole", "daltons"), "molar mass"),
        *_of("thing product", v.amount("°C", "degrees", "°F"), "flash point"),
        *_of("thing", v.amount("grams per liter", "mg/L in water", "g per 100 ml"), "solubility"),
        *_of("thing product", f.grade, "hazard class"),
        *_of("thing product", f.instruction, "first aid"),
        *_of("thing product", f.outfit, "protective equipment", held_out="protective equipment"),
        # computing
        *_of("product project", f.port, "port number"),
        *_of("product project work", f.licence, "license"),
        *_of("product project", v.person, "maintainer"),
        *_of("product project", f.repository, "repository"),
        *_of("thing product", v.code, "error code"),
        *_of("product project", f.software, "programming language", "dependency", held_out="dependency"),
        # security and incidents
        *_of("thing project", f.fault, "cause"),
        *_of("thing project", f.harm, "consequence"),
        *_of("thing product", v.listing, "affected systems"),
        *_of("thing", f.check, "detection method"),
        *_of("thing", f.instruction, "mitigation"),
        *_of("thing", f.grade, "severity"),
        *_of("thing", f.percent, "likelihood", held_out="likelihood"),
        *_of("thing product", v.date, "first seen"),
        *_of("thing", f.case, "known case"),
        # medicine
        *_of("product", v.listing, "side effect"),
        *_of("product", v.phrase, "contraindication", "indication"),
        *_of("product thing", v.amount("hours", "minutes", "days", "years"), "half-life"),
        *_of("product", f.route, "route of administration"),
        *_of("thing", v.listing, "symptom"),
        *_of("thing", v.amount("days", "hours", "weeks"), "incubation period"),
        # law
        *_of("organisation thing project", f.land, "jurisdiction"),
        *_of("thing", f.penalty, "penalty"),
        *_of("organisation", f.legal_form, "legal form", held_out="legal form"),
        *_of("organisation person project", v.amount("days", "weeks", "months"), "notice period"),
        *_of("project thing organisation", f.paragraph, "legal basis"),
        *_of("person project thing", v.code, "case number"),
        # finance
        *_of("product organisation", f.percent, "interest rate", "discount"),
        *_of("person organisation", v.long_number, "tax number"),
        *_of("organisation project", f.terms, "payment terms"),
        *_of("person organisation product", v.money, "credit limit", held_out="credit limit"),
        *_of("product", v.date, "maturity date"),
        # sport
        *_of("organisation person", f.league, "league"),
        *_of("organisation person", v.person, "coach"),
        *_of("organisation", f.arena, "stadium"),
        *_of("person", v.amount("seconds", "meters", "points"), "personal record"),
        *_of("person", f.jersey, "jersey number", held_out="jersey number"),
        *_of("person", f.playing_position, "playing position"),
        # music and art
        *_of("work", f.key, "musical key"),
        *_of("work", v.amount("beats per minute", "bpm"), "tempo"),
        *_of("work", f.technique, "technique"),
        *_of("work", f.gallery, "museum"),
        *_of("work person", v.title, "record label"),
        *_of("work person", f.movement, "art movement"),
        # food and farming
        *_of("thing product", f.season, "harvest time", "sowing time", held_out="sowing time"),
        *_of("thing product", v.amount("tons per hectare", "kilograms a tree", "bushels per acre"), "yield"),
        *_of("product thing", v.listing, "allergens"),
        *_of("product thing", v.amount("kcal", "calories", "kilojoules"), "calories"),
        *_of("product thing", v.amount("minutes", "hours"), "cooking time"),
        # events and travel
        *_of("project work", f.arena, "venue"),
        *_of("place project", v.money, "admission fee"),
        *_of("project organisation", f.outfit, "dress code"),
        *_of("place organisation", f.clock, "check-in time", "checkout time"),
        *_of("project", v.person, "organizer"),
        *_of("project", v.location, "meeting point"),
        # education
        *_of("person", f.degree, "academic degree"),
        *_of("project", v.phrase, "prerequisite"),
        *_of("project", v.amount("credits", "ECTS points"), "credit points"),
        *_of("project", f.volume, "textbook"),
        *_of("project person", v.date, "exam date"),
        *_of("person", f.school, "alma mater", held_out="alma mater"),
        # energy and environment
        *_of("product place organisation", v.amount("tons of CO2 a year", "grams of CO2 per km"), "emissions"),
        *_of("place product", v.amount("megawatts", "gigawatts", "kilowatts"), "installed capacity"),
        *_of("place product", v.noun, "energy source"),
        *_of("product", f.percent, "efficiency"),
        *_of("product place", v.amount("decibels", "dB(A)"), "noise level"),
        *_of("product organisation", v.amount("liters a day", "cubic meters a year"), "water consumption"),
        # biology
        *_of("creature", f.family, "taxonomic family"),
        *_of("creature", f.survival, "conservation status"),
        *_of("creature", v.amount("days", "weeks", "months"), "gestation period"),
        *_of("creature", f.litter, "litter size", held_out="litter size"),
        *_of("creature", f.season, "breeding season"),
        *_of("thing", f.season, "flowering time"),
        # astronomy
        *_of("thing", v.amount("days", "years", "hours"), "orbital period"),
        *_of("thing product", v.amount("kilometers", "meters", "millimeters"), "diameter"),
        *_of("thing", v.amount("light-years", "million kilometers", "parsecs"), "distance from Earth"),
        *_of("thing creature", v.person, "discoverer"),
        *_of("thing", v.title, "constellation"),
        *_of("thing", f.moons, "number of moons"),
        # language
        *_of("thing", v.noun, "synonym", "antonym"),
        *_of("thing", f.several, "plural", held_out="plural"),
        *_of("thing", f.part_of_speech, "part of speech"),
        *_of("thing", v.sentence, "example sentence"),
        *_of("thing person place", f.spoken, "pronunciation"),
        *_of("thing organisation project", f.letters, "abbreviation"),
        # history
        *_of("person organisation product", v.title, "predecessor"),
        *_of("thing project", f.outcome, "outcome"),
        *_of("thing", v.whole, "casualties"),
        *_of("thing project", v.person, "commander"),
        *_of("person", v.location, "burial place"),
        *_of("person", v.date, "date of death"),
        # customer support
        *_of("thing project", v.code, "ticket number"),
        *_of("thing project", f.grade, "priority"),
        *_of("thing project", v.person, "assignee", "reporter", held_out="reporter"),
        *_of("thing product", f.instruction, "workaround"),
        *_of("organisation project", v.person, "contact person"),
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
