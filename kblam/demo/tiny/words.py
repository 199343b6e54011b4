"""The words of the demo world: properties, the word classes of their values, and the grid of names.

Every slot of a value draws from a word class of its own, and there are no numbers: with two slots of one
class ("deep white and dark white") a sentence embedding tells *which* words occur but hardly in which order,
and no decoder can put that right.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# property -> (pattern, word classes of its slots)
VALUE_GRAMMAR: dict[str, tuple[str, tuple[str, ...]]] = {
    "purpose": (
        "{} {} {}",
        (
            "storing moving cleaning cutting drying heating painting testing weighing mixing sorting counting",
            "fresh frozen broken heavy secret ancient sweet bitter wooden digital royal tiny",
            "grain fish letters stones cloth honey engines flowers coins milk paper bones",
        ),
    ),
    "color": (
        "{} {} with {}",
        (
            "pale deep bright faded glossy dull vivid smoky metallic warm dark transparent",
            "red green blue yellow purple orange brown pink white black gray gold",
            "stars stripes dots waves leaves squares circles hearts feathers flames scales roses",
        ),
    ),
    "origin": (
        "{} {} near {}",
        (
            "quiet flooded hidden sunny ruined crowded misty haunted fertile rocky remote burning",
            "valley harbor island forest desert village castle swamp mountain cave market monastery",
            "paris tokyo cairo london moscow boston delhi rome lima sydney berlin nairobi",
        ),
    ),
    "guardian": (
        "{} {} from {}",
        (
            "brave blind lazy clever angry young silent rich famous jealous polite drunk",
            "soldier nurse farmer priest pirate teacher queen hunter doctor monk sailor thief",
            "brazil canada egypt japan norway india spain kenya mexico greece poland chile",
        ),
    ),
    "weather": (
        "{} {} before {}",
        (
            "light heavy sudden constant rare violent gentle freezing strange brief endless mild",
            "rain snow wind fog thunder hail sunshine drought dust frost clouds heat",
            "dawn noon dusk midnight winter spring summer autumn harvest easter christmas sunday",
        ),
    ),
    "food": (
        "{} {} with {}",
        (
            "salty spicy sour creamy smoked raw fried boiled roasted dried cold burnt",
            "soup bread salad pizza rice cake stew noodles pie sausage pancakes pasta",
            "garlic cheese lemon mushrooms pepper tomatoes onions butter beans ginger mint nuts",
        ),
    ),
    "sound": (
        "{} {} behind {}",
        (
            "loud soft distant echoing sharp hollow rhythmic shrill deep nervous cheerful sad",
            "bells drums flutes violins organs trumpets guitars pianos horns laughter voices footsteps",
            "walls curtains doors hills windows trees rivers bridges towers gates fences ships",
        ),
    ),
    "material": (
        "{} {} and {}",
        (
            "polished cracked woven rusty melted carved recycled painted folded thin dense sticky",
            "oak iron glass silk leather clay marble wool rubber copper bamboo concrete",
            "pearls diamonds feathers shells wax ivory sand salt ash fur ink bones",
        ),
    ),
    "weakness": (
        "{} {} in {}",
        (
            "giant hungry striped poisonous sleeping flying hairy injured trained wild baby invisible",
            "spiders wolves snakes horses rats elephants owls cats bears crabs monkeys bees",
            "kitchens libraries elevators tunnels hospitals theaters gardens prisons airports churches schools museums",
        ),
    ),
    "treasure": (
        "{} {} of a {}",
        (
            "stolen sacred cursed forgotten valuable buried fake glowing sunken shattered borrowed frozen",
            "crown sword mirror ring map necklace statue cup book key mask clock",
            "king wizard merchant dragon general bishop poet ghost captain sculptor witch judge",
        ),
    ),
    "hobby": (
        "{} {} {}",
        (
            "collecting repairing drawing selling copying designing hiding throwing stealing wrapping washing burning",
            "antique colorful expensive plastic square magnetic soviet musical silver miniature electric leather",
            "stamps bicycles dolls balloons lamps shoes hats puzzles radios toys bottles chairs",
        ),
    ),
    "festival": (
        "{} {} for {}",
        (
            "annual noisy chaotic solemn illegal underwater outdoor romantic nocturnal muddy televised competitive",
            "parade banquet dance race auction carnival wedding concert ceremony tournament picnic lecture",
            "children widows tourists athletes orphans scientists sailors veterans farmers bankers nuns refugees",
        ),
    ),
}

PROPERTIES: tuple[str, ...] = tuple(VALUE_GRAMMAR)

# The grid: names such as "Amber Falcon". Dense on purpose, so that most names have neighbours that share a word.
FIRST_NAMES: tuple[str, ...] = _words(
    """
    amber ancient arctic autumn azure bitter blazing blue bold brass broken bronze burning calm cobalt copper
    coral crimson crystal cunning dancing daring dark desert distant eager early echo ember emerald endless
    eternal faithful fallen fierce flying foggy forest frosty frozen gentle ghost giant gilded glass golden
    grand granite gray green hidden hollow honest humble icy iron ivory jade jolly laughing lonely lost lunar
    marble mellow midnight misty mystic neon noble northern obsidian ocean onyx opal pale pearl phantom polar
    proud purple quiet radiant rapid restless roaring royal ruby rustic sacred sapphire savage scarlet secret
    shadow silent silver sleepy solar southern stormy swift thunder timber tropical twin velvet violet wandering
    western wild winter wise
    """
)
SECOND_NAMES: tuple[str, ...] = _words(
    """
    anchor anvil arrow badger beacon bear bell bison blade bridge buffalo canyon castle cedar chapel cliff cloud
    comet compass condor cougar crane creek crow crown dagger deer dolphin dragon drum eagle elm engine falcon
    fern field flame flute forge fountain fox garden gate glacier grove hammer harbor hare harp hawk helmet
    heron hill horizon horse hound island jaguar kettle knight lake lantern lark leopard lily lion lizard lynx
    maple meadow mirror moon moose mountain needle oak orchid otter owl palace panther peak pebble phoenix pine
    planet puma quarry rabbit raven reef river robin rocket rose saddle sail salmon scepter shield sparrow spear
    spider spruce squirrel stag star stone stork summit swan sword tiger tower trail turtle valley viper walrus
    whale willow wolf
    """
)
