"""Natural questions about the real bases, as people ask them: by base and property, with {name}. Never trained on.

They name the property in words of their own, or only mean it. Each is about this property and no other of its base.
"""

from __future__ import annotations

NATURAL: dict[str, dict[str, tuple[str, ...]]] = {
    "elements": {
        "symbol": ("Which letters stand for {name} in the periodic table?", "What is {name} shortened to?"),
        "use": ("What do people use {name} for?", "Where does {name} come in handy?"),
        "natural source": ("Where in nature does {name} come from?", "What is {name} obtained from?"),
        "origin of the name": ("Why is {name} called that?", "Where does the word {name} come from?"),
        "discoverer": ("Who discovered {name}?", "Who was the first to find {name}?"),
        "place of discovery": ("Where was {name} discovered?", "In which country was {name} first found?"),
        "year of discovery": ("When was {name} discovered?", "In what year did someone discover {name}?"),
        "atomic number": ("How many protons does {name} have?", "At which place of the periodic table is {name}?"),
        "atomic weight": ("How heavy is an atom of {name}?", "How much does {name} weigh, in atomic units?"),
        "melting point": ("At what temperature does {name} melt?", "When does {name} become liquid?"),
        "boiling point": ("At what temperature does {name} boil?", "How hot does {name} have to get before it boils?"),
        "density": ("How dense is {name}?", "How much does a cubic centimeter of {name} weigh?"),
        "thermal conductivity": ("How well does {name} conduct heat?",),
        "electronegativity": ("How electronegative is {name}?",),
        "atomic radius": ("How large is an atom of {name}?",),
        "price per kilogram": ("What does a kilogram of {name} cost?", "How expensive is {name}?"),
        "largest producers": ("Which countries produce most {name}?", "Who makes the most {name}?"),
        "radioactivity": ("Is {name} radioactive?",),
        "abundance in sea water": ("How much {name} is there in the sea?",),
        "abundance in the crust of the earth": ("How much {name} is there in the ground?",),
    },
    "airports": {
        "IATA code": (
            "Which three letters does {name} have on luggage tags?",
            "What's the IATA abbreviation of {name}?",
        ),
        "ICAO code": ("What's the four-letter ICAO abbreviation of {name}?",),
        "city": ("Which city does {name} serve?", "In what town is {name}?"),
        "region": ("Which state or province is {name} in?",),
        "country code": ("Which country is {name} in, as a code?",),
        "time zone": ("Which time zone does {name} keep?", "What clock does {name} go by?"),
        "elevation": ("How many feet above the sea was {name} built?", "How high does {name} lie?"),
        "latitude": ("How far north or south is {name}?",),
        "longitude": ("How far east or west is {name}?",),
    },
    "weaknesses": {
        "CWE number": ("Under which number does CWE list {name}?",),
        "likelihood of an exploit": ("How likely is it that somebody exploits {name}?",),
        "programming language": ("Which programming languages suffer from {name}?",),
        "phase of introduction": ("In which phase of development does {name} creep in?",),
        "consequence": ("What happens because of {name}?", "What can an attacker gain from {name}?"),
        "mitigation": ("How can one prevent {name}?", "What helps against {name}?"),
        "detection method": ("How does one find {name} in code?",),
        "observed example": ("Where has {name} been seen in the wild?",),
    },
    "compounds": {
        "molecular formula": ("Which atoms is {name} made of?", "How do you write {name} as a formula?"),
        "molar mass": ("How much does a mole of {name} weigh?",),
        "CAS number": ("Under which CAS entry is {name} registered?",),
        "PubChem number": ("Which entry of PubChem is {name}?",),
        "melting point": ("At what temperature does {name} melt?",),
        "boiling point": ("At what temperature does {name} boil?",),
        "flash point": ("From which temperature on can {name} be lit?",),
        "autoignition temperature": ("At what temperature does {name} catch fire by itself?",),
    },
    "wordnet": {
        "meaning": (
            "What do people mean when they say {name}?",
            "What does the word {name} stand for?",
            "How would a dictionary define {name}?",
        ),
        "word class": ("What part of speech is {name}?", "Is {name} a noun, a verb or something else?"),
        "synonym": ("What is another word for {name}?", "How else can you say {name}?"),
        "broader term": ("Of what wider group is {name} a part?",),
        "example": ("Show me {name} in a sentence.",),
    },
}
