"""Questions that fit one property: who, when, where, how much. Each kind of question names its property clearly.

A table of text, because that is how it is read and written: the property, its questions, and after the bar those that
training never sees.
"""

from __future__ import annotations

from dataclasses import dataclass

from kblam.data.tables import lines

# ruff: noqa: E501 - one property, one line
_TABLE = """
founder: Who founded {n}? / By whom was {n} founded? / Who is the founder of {n}? / Who started {n}? | Who set up {n} in the first place? / Whose idea was it to found {n}?
owner: Who owns {n}? / Who does {n} belong to? / Whose property is {n}? / Who is the owner of {n}? | In whose possession is {n}? / Who has {n} in their hands as its owner?
director: Who directs {n}? / Who is the director of {n}? / Who is in charge of {n} as director? / Who runs {n} as its director? | Whom would I meet as the director of {n}? / Under which director does {n} work?
lead engineer: Who is the lead engineer of {n}? / Who leads the engineering of {n}? / Which engineer leads {n}? / Who is in charge of the engineering of {n}? | Who heads the engineers of {n}? / Whom do the engineers of {n} report to?
accountant: Who keeps the books of {n}? / Who is the accountant of {n}? / Who does the accounts of {n}? | Who does the bookkeeping for {n}? / Who looks after the accounts of {n}?
sponsor: Who sponsors {n}? / Who is the sponsor of {n}? / By whom is {n} sponsored? | Whose sponsorship does {n} have? / Who gives money to {n} as a sponsor?
mayor: Who is the mayor of {n}? / Who governs {n} as mayor? / Which mayor does {n} have? | Whom did {n} elect as its mayor? / Who sits in the mayor's office of {n}?
patron: Who is the patron of {n}? / Which patron protects {n}? / Who is {n}'s patron? | Under whose patronage is {n}? / Whom does {n} honor as its patron?
occupation: What does {n} do for a living? / What is {n}'s job? / What does {n} work as? / As what is {n} employed? | How does {n} earn a living? / Which profession does {n} follow?
birthplace: Where was {n} born? / In which town was {n} born? / Which city is {n}'s birthplace? | In what place did {n} come into the world? / Where did {n}'s mother give birth to {n}?
home town: Which town does {n} call home? / What is {n}'s home town? / In which town is {n} at home? | Which is the town that {n} thinks of as home? / What town would {n} call their own?
place of residence: Where does {n} live? / In which place does {n} reside? / Where does {n} live now? | Where is {n} living these days? / In which city would I find the residence of {n}?
date of birth: When was {n} born? / On which day was {n} born? / What is {n}'s birthday? | On what date does {n} have a birthday? / Since when has {n} been in the world?
wedding day: When did {n} marry? / On which day did {n} get married? / When was the wedding of {n}? | On what date was {n} a bride or groom? / When did {n} tie the knot?
date of arrival: When did {n} arrive? / On which day did {n} come here? / When does {n} arrive? | On what date should I expect {n}? / When is it that {n} gets here?
spouse: Who is {n} married to? / Whom did {n} marry? / Who is the spouse of {n}? / Who is {n}'s husband or wife? | With whom does {n} share a marriage? / To whom is {n} wed?
teacher: Who taught {n}? / Who was the teacher of {n}? / From whom did {n} learn? | Whose student was {n}? / Who gave lessons to {n}?
rival: Who is the rival of {n}? / Who competes with {n}? / Whom does {n} compete against? | Whom does {n} want to beat? / Against whom must {n} prevail?
assistant: Who assists {n}? / Who is the assistant of {n}? / Who helps {n} at work? | Who is it that assists {n}? / Who works for {n} as an assistant?
neighbor: Who lives next to {n}? / Who is the neighbor of {n}? / Next door to {n}, who lives there? | Whose door is beside that of {n}? / Who has the house beside {n}?
favorite food: What does {n} like to eat? / Which dish does {n} like best? / What is {n}'s favorite dish? | What should I cook for {n}? / What would {n} order in a restaurant?
hobby: What does {n} do in their free time? / What does {n} do for fun? / How does {n} spend the weekends? | What is {n} fond of doing after work? / With what does {n} pass spare time?
pet: What pet does {n} keep? / Which animal lives with {n}? / What kind of pet does {n} have? | What sort of animal does {n} feed at home? / Which creature is {n}'s pet?
instrument: What does {n} play? / Which instrument does {n} play? / What instrument can {n} play? | On what does {n} make music? / What would {n} play in an orchestra?
salary: How much does {n} earn? / How much is {n} paid? / What does {n} earn? | How big is {n}'s pay? / What money does {n} take home?
email address: How can I email {n}? / To which address do I send mail for {n}? / What is {n}'s email? | Where should an email for {n} go? / Under what email can {n} be written to?
phone number: How can I call {n}? / Which number do I dial for {n}? / At which number is {n} reached by phone? / Under which number can I phone {n}? | How do I reach {n} by telephone? / What should I dial to speak to {n}?
fax number: Where can I send a fax to {n}? / Which number takes faxes for {n}? / To what number do I fax {n}? | How do I fax a page to {n}? / Under what number does {n} get faxes?
emergency number: Which number do I call at {n} in an emergency? / Whom do I dial for {n} in an emergency? / What is the number for emergencies at {n}? | In an emergency, how do I reach {n}? / What should I dial for {n} if there is a fire?
capital: Which city is the capital of {n}? / What city is {n}'s capital? / From which city is {n} governed? | Where does the government of {n} sit? / Which town serves as the capital of {n}?
largest city: Which is the largest city of {n}? / What is {n}'s biggest city? / Which city in {n} is the largest? | What town in {n} has the most people? / Which city outgrows all others in {n}?
twin town: Which town is {n} twinned with? / What is {n}'s twin town? / With which town is {n} twinned? | What place is the twin of {n}? / What town is paired with {n} as its twin?
population: How many people live in {n}? / How many inhabitants does {n} have? / How large is the population of {n}? | How many live in {n}? / What number of people call {n} home?
area: How large is {n}? / What area does {n} cover? / How much land does {n} cover? | Over how much ground does {n} stretch? / How large an area is {n}?
elevation: How high above the sea is {n}? / At what elevation does {n} lie? / How high up is {n}? | How far above sea level is {n}? / At which altitude is {n} situated?
currency: What do people pay with in {n}? / Which money is used in {n}? / What is the money of {n}? | With what do I pay in {n}? / Which coins are used in {n}?
main export: What does {n} export? / What does {n} sell abroad? / Which goods does {n} export most? | What leaves {n} by ship? / Which goods do others buy from {n}?
climate: What is the weather like in {n}? / What kind of climate does {n} have? / How is the climate in {n}? | What weather should I expect in {n}? / How does the air feel in {n}?
national dish: What do people eat in {n}? / Which dish is typical of {n}? / What is the typical dish of {n}? | What should I eat when I visit {n}? / Which meal is {n} proud of?
postal code: Which postal code do I write on letters to {n}? / What is the zip code of {n}? / Which code does the post use for {n}? | What number goes before {n} on an envelope? / How does the post number {n}?
local name: What do the locals call {n}? / How is {n} called in the local language? / What name do its people give {n}? | What is {n} called by those who live there? / By which name do the natives know {n}?
headquarters: Where is {n} headquartered? / Where does {n} have its headquarters? / In which city is {n} based? | From where is {n} run? / In what town is the head office of {n}?
founding year: When was {n} founded? / In which year was {n} founded? / Since when has {n} existed? | How long ago, that is in which year, did {n} begin? / What year saw the foundation of {n}?
revenue: How much does {n} take in a year? / How much revenue does {n} make? / What are the yearly sales of {n}? | How much money comes in at {n}? / How large is the revenue that {n} makes?
number of employees: How many people work for {n}? / How many employees does {n} have? / How many people does {n} employ? | What is the size of {n}'s staff? / How many are on the payroll of {n}?
number of members: How many members does {n} have? / How many people belong to {n}? / How many have joined {n}? | What is the membership of {n}? / How many people carry a card of {n}?
motto: What motto does {n} follow? / Which words are the motto of {n}? / By what motto does {n} live? | What is the motto that {n} goes by? / Which saying guides {n}?
slogan: With which slogan does {n} advertise? / What slogan does {n} use? / What does {n} say in its advertisements? | What line do {n}'s advertisements carry? / Which catchy words does {n} sell with?
website: Where can I find {n} on the web? / Which website belongs to {n}? / What is the homepage of {n}? | What do I type in the browser for {n}? / Under which web address is {n} online?
chief product: What does {n} make? / What does {n} sell most? / What is {n} best known for making? | What is the main thing that {n} produces? / What do customers buy from {n}?
opening hours: When is {n} open? / At what times is {n} open? / When can I go to {n}? | During which hours are the doors of {n} open? / When do they let people into {n}?
visiting time: When can I visit {n}? / At what time are visitors let into {n}? / When are visits to {n} allowed? | When does {n} take visitors? / At which times may one come to see {n}?
address: At which address is {n}? / What street is {n} in? / Where exactly is {n}, street and number? | To which street should I send a letter for {n}? / What is the street address of {n}?
account number: To which account do I pay {n}? / Into which account does {n} take payments? / What is the bank account of {n}? | Where do I transfer money for {n}? / Which account should I credit for {n}?
registration number: Under which number is {n} registered? / What number did {n} get at registration? / How is {n} registered? | What number does the register show for {n}? / Which number stands beside {n} in the register?
start date: When does {n} start? / When did {n} begin? / On which day does {n} begin? | From which date on is {n} running? / On what day did the work on {n} start?
deadline: When must {n} be finished? / When is {n} due? / By which date must {n} be done? | Until when do we have time for {n}? / Until when does {n} have to be ready?
release date: When was {n} released? / When does {n} come out? / On which day was {n} published? | Since what day has {n} been out? / On what date did {n} reach the public?
expiry date: When does {n} expire? / Until when is {n} valid? / On which day does {n} run out? | What is the last day that {n} can be used? / From which date on is {n} no longer valid?
budget: How much money does {n} have? / How much may {n} spend? / What budget does {n} have? | How much money was set aside for {n}? / How big is the budget of {n}?
main risk: What could go wrong with {n}? / What is the greatest risk of {n}? / What threatens {n} most? | What should the people of {n} be afraid of? / What might make {n} fail?
next step: What comes next for {n}? / What has to be done next in {n}? / What will {n} do next? | How does {n} go on from here? / What should be tackled next in {n}?
objective: What does {n} want to achieve? / What does {n} aim at? / What is the aim of {n}? | What should {n} lead to? / Which goal does {n} pursue?
code name: Under which code name is {n} known? / What is the code name for {n}? / What code name was given to {n}? | What do insiders call {n} in code? / What is {n}'s name in code?
status: How far is {n}? / How is {n} going? / What state is {n} in? | How do things stand with {n}? / Where do we stand with {n}?
access code: Which code opens {n}? / What code do I need to get into {n}? / Which code gives access to {n}? | Which code must be typed in for access to {n}? / What code unlocks {n}?
inventor: Who invented {n}? / By whom was {n} invented? / Who is the inventor of {n}? | Whose invention is {n}? / Who came up with {n} as an inventor?
designer: Who designed {n}? / By whom was {n} designed? / Who drew the design of {n}? | Whose design is {n}? / Who is behind the design of {n}?
price: How much does {n} cost? / How much is {n}? / What does {n} cost? / How much do I pay for {n}? | How much money do I need to buy {n}? / For how much is {n} sold?
shipping fee: How much is the shipping of {n}? / What does it cost to ship {n}? / How much do I pay for the delivery of {n}? | What do they charge to send {n}? / How much is it to have {n} delivered?
deposit: How much must I leave as a deposit for {n}? / How high is the deposit on {n}? / What deposit does {n} need? | How much deposit do they ask for {n}? / How much is held back for {n} as a deposit?
monthly fee: How much is {n} a month? / What do I pay for {n} each month? / What does {n} cost per month? | How much leaves my account every month for {n}? / What is charged monthly for {n}?
weight: How heavy is {n}? / How much does {n} weigh? / What does {n} weigh? | What do the scales show for {n}? / How much would I have to lift to carry {n}?
height: How tall is {n}? / How high is {n}? / What height does {n} reach? | How tall would you say {n} is? / How much does {n} measure in height?
length: How long is {n}? / What length does {n} have? / How many units long is {n}? | How much does {n} measure in length? / What would a tape measure say for the length of {n}?
width: How wide is {n}? / How broad is {n}? / What width does {n} have? | Just how wide would you say {n} is? / How wide a door does {n} need?
color: What color is {n}? / Which color does {n} have? / In what color does {n} come? | What does {n} look like as to its color? / How is {n} colored?
material: What is {n} made of? / Out of what is {n} made? / Which material is {n} made from? | What did they use to make {n}? / What kind of material is used for {n}?
ingredients: What are the ingredients in {n}? / What does {n} contain? / What goes into {n}? | What do I need to mix {n}? / What would I find in {n} if I took it apart?
serial number: Which serial number is on {n}? / What serial number does {n} carry? / What is the serial of {n}? | What is stamped on {n} as its serial? / Which serial do I type in to register {n}?
model number: Which model number does {n} have? / What model is {n}? / Under which model number is {n} sold? | What is the exact model of {n}? / Which number tells the model of {n}?
software version: Which version of the software does {n} run? / What software version is on {n}? / What version is installed on {n}? | How recent is the software of {n}? / Up to which version has {n} been updated?
torque: How much torque does {n} have? / With which torque do I tighten {n}? / How tight must {n} be? | What should the torque wrench say for {n}? / How hard should {n} be turned?
dosage: How much of {n} should I take? / What dose of {n} is right? / How is {n} dosed? | What quantity of {n} does a patient get? / Which dose of {n} should be given?
voltage: At which voltage does {n} run? / How many volts does {n} need? / What voltage does {n} use? | How much tension is on the wires of {n}? / What voltage do I set for {n}?
power consumption: How much power does {n} use? / How many watts does {n} draw? / How much energy does {n} need? | How hungry for power is {n}? / What does {n} draw from the socket?
battery life: How long does the battery of {n} last? / For how long does {n} run on its battery? / How long can I use {n} without charging? | When must {n} be charged again? / How much time do I have until {n} is empty?
shelf life: How long can {n} be kept? / For how long does {n} stay fresh? / How long does {n} keep? | When does {n} go bad? / How much time can {n} stand on the shelf?
melting point: When does {n} melt? / At which temperature does {n} melt? / How hot must {n} be to melt? | How hot does it have to get before {n} melts? / How much heat does it take to melt {n}?
boiling point: When does {n} boil? / At which temperature does {n} boil? / How hot must {n} be to boil? | What temperature makes {n} boil? / How hot do I make {n} until it boils?
storage temperature: At which temperature should {n} be stored? / How cold must {n} be kept? / How warm may {n} be stored? | What should the thermometer say where {n} is kept? / In what cold or heat do I store {n}?
warranty: What does the warranty of {n} cover? / Which warranty comes with {n}? / What warranty does {n} have? | What am I promised if {n} breaks? / What guarantee does the maker of {n} give?
safety rule: What must I watch out for with {n}? / Which safety rule applies to {n}? / How do I stay safe with {n}? | What must never be forgotten near {n}? / Which rule keeps people safe from {n}?
manufacturer: Who makes {n}? / Who manufactures {n}? / Which company makes {n}? | From whose factory does {n} come? / Which firm builds {n}?
supplier: Who supplies {n}? / From whom is {n} supplied? / Which supplier does {n} have? | Who provides the supplies for {n}? / On whose deliveries does {n} depend?
distributor: Who distributes {n}? / Through whom is {n} distributed? / Which distributor sells {n}? | Who brings {n} into the shops? / Which firm distributes {n}?
author: Who wrote {n}? / By whom was {n} written? / Who is the author of {n}? | Which author wrote {n}? / Whose name stands on {n} as its writer?
publisher: Who published {n}? / By whom was {n} published? / Who is the publisher of {n}? | Who brought {n} out as its publisher? / Which publisher printed {n}?
translator: Who translated {n}? / By whom was {n} translated? / Who is the translator of {n}? | Who put {n} into another language? / Whose translation of {n} is it?
illustrator: Who illustrated {n}? / Who drew the pictures in {n}? / By whom was {n} illustrated? | Whose drawings are in {n}? / Who made the pictures for {n}?
main character: Who is {n} about? / Who is the hero of {n}? / Which character is at the center of {n}? | Whose story does {n} tell? / Whom does the reader of {n} follow?
genre: What kind of book is {n}, by its genre? / Which genre is {n}? / To what genre does {n} belong? | On which shelf would a library put {n}? / How would critics classify {n}?
setting: Where does {n} take place? / Where is {n} set? / In which place does the story of {n} happen? | In what town does the plot of {n} unfold? / Where are we when we read {n}?
first line: How does {n} begin? / With which words does {n} begin? / What is the opening line of {n}? | What does one read first in {n}? / Which sentence opens {n}?
dedication: To whom or what is {n} dedicated? / What does the dedication of {n} say? / What is written in the dedication of {n}? | Which words stand before {n} as a dedication? / How does {n} honor someone on its first page?
catalog number: Under which number is {n} in the catalog? / What is the catalog number of {n}? / Which number does the catalog give {n}? | How is {n} listed in the catalog? / What do I type to find {n} in the catalog?
original title: What is {n} called in the original? / Under which title did {n} first appear? / What was {n} called at first? | What title did {n} have before it was translated? / Originally, what title did {n} have?
habitat: Where does {n} live in nature? / In which surroundings does {n} live? / Where can {n} be found in the wild? | Where would I look for {n} in the wild? / What place does {n} inhabit?
diet: What does {n} feed on? / What does {n} eat? / What food does {n} live on? | What kind of food does {n} eat? / What is on the menu of {n}?
lifespan: How long does {n} live? / How old does {n} get? / What age does {n} reach? | How much time does {n} have from birth to death? / Until what age does {n} survive?
wingspan: How wide are the wings of {n}? / How far do the wings of {n} reach? / What wingspan does {n} have? | From wing tip to wing tip, how wide is {n}? / How wide is {n} with its wings spread?
top speed: How fast is {n}? / How fast can {n} go? / What speed does {n} reach? | At most, how quick is {n}? / What does the speedometer say when {n} goes flat out?
scientific name: What do scientists call {n}? / What is {n} called in Latin? / Under which scientific name is {n} known? | How does a biologist name {n}? / What is the species name of {n}?
natural enemy: What hunts {n}? / Which animal is dangerous to {n}? / What is {n} hunted by? | What does {n} run away from? / Who preys on {n}?
description: What is {n}? / Describe {n}. / What kind of thing is {n}? / Tell me what {n} is. | In a few words, what is {n}? / How would you explain {n} to somebody?
purpose: What is {n} for? / Why does {n} exist? / What is {n} used for? / What does {n} serve for? | What good is {n}? / What is {n} meant for?
location: Where is {n}? / Where is {n} located? / Where can I find {n}? / Where does {n} lie? | How would I find {n} on a map? / In what spot is {n} situated?
symbol: By which symbol is {n} known? / Which symbol does {n} have? / What is {n} symbolized by? | What is {n} represented by? / Which sign do people connect with {n}?
weakness: What is {n} weak against? / Where is {n} vulnerable? / What weakens {n}? | What is {n}'s weak spot? / With what can {n} be beaten?
secret: What does {n} hide? / Which secret does {n} keep? / What is secret about {n}? | What secret is {n} keeping from us? / What does {n} not want others to know?
origin: Where does {n} come from? / From where does {n} originate? / What place does {n} come from? | Where was {n} first found? / In which place are the beginnings of {n}?
nickname: What is {n} also called? / Which nickname does {n} have? / What do people call {n} for short? | By what other name do friends know {n}? / What do they jokingly call {n}?
successor: Who or what came after {n}? / What succeeded {n}? / By what was {n} succeeded? | Which one succeeded {n}? / What took the place of {n} as its successor?
rating: How is {n} rated? / How good is {n}, as a number? / What rating did {n} get? | How many points does {n} have? / Which score was given to {n}?
Polish name: What is {n} called in Polish? / How do you say {n} in Polish? / What do Poles call {n}? | How would a Pole name {n}? / Under which name is {n} known in Poland?
Greek name: What is {n} called in Greek? / How do you say {n} in Greek? / What do the Greeks call {n}? | How would a Greek name {n}? / Under which name is {n} known in Greece?
Japanese name: What is {n} called in Japanese? / How do you say {n} in Japanese? / What do the Japanese call {n}? | How would somebody from Japan name {n}? / Under which name is {n} known in Japan?
Slavic name: What is the Slavic name for {n}? / How is {n} called by the Slavs? / Which Slavic name does {n} have? | How would a Slav name {n}? / Under which name do Slavs know {n}?
Nordic name: What is {n} called in the north? / Which Nordic name does {n} have? / How do Scandinavians call {n}? | How would a Scandinavian name {n}? / Under which name is {n} known in the Nordic countries?
meaning: What does {n} mean? / Define {n}. / What is the definition of {n}? / What is meant by {n}? | How does a dictionary explain {n}? / In what sense is {n} used?
"""


@dataclass(frozen=True)
class Specific:
    """Questions with a place {n} for the name.

    Args:
        seen: for training.
        held_out: never in training.
    """

    seen: tuple[str, ...]
    held_out: tuple[str, ...]


def _parsed() -> dict[str, Specific]:
    found = {}
    for line in lines(_TABLE):
        prop, _, questions = line.partition(": ")
        seen, held_out = (tuple(part.strip().split(" / ")) for part in questions.split(" | "))
        found[prop] = Specific(seen, held_out)
    return found


SPECIFIC: dict[str, Specific] = _parsed()

# What people say for one of several properties: only where the entity has no other property it could mean.
LOOSE: dict[str, tuple[str, ...]] = {
    "Who leads {n}?": ("director", "lead engineer", "mayor", "founder", "owner"),
    "Who is in charge of {n}?": ("director", "lead engineer", "mayor", "owner"),
    "Who runs {n}?": ("director", "owner", "mayor", "lead engineer"),
    "Who heads {n}?": ("director", "lead engineer", "mayor"),
    "Who is responsible for {n}?": ("lead engineer", "director", "manufacturer"),
    "Who made {n}?": ("inventor", "designer", "manufacturer", "author", "founder"),
    "Who created {n}?": ("founder", "inventor", "designer", "author"),
    "Who pays for {n}?": ("sponsor", "owner"),
    "When did {n} start?": ("start date", "founding year"),
    "When did {n} open?": ("founding year", "start date", "release date"),
    "When does {n} end?": ("deadline", "expiry date"),
    "How big is {n}?": ("area", "height", "length", "width", "population", "number of employees"),
    "How much do I pay for {n}?": ("price", "monthly fee"),
    "Where do I find {n}?": ("location", "address", "headquarters", "habitat"),
    "How do I contact {n}?": ("phone number", "email address", "website", "fax number", "address"),
    "What is {n} all about?": ("purpose", "objective", "description"),
    "Where is {n} from?": ("birthplace", "home town", "origin"),
    "What else is {n} known as?": ("nickname", "local name", "code name"),
}
