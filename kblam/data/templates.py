"""Questions for any property: templates with {p} for the property and {n} for the name, seen and held out.

The study's older templates, which the demonstration model was trained on, are in `questions.py`.
"""

from __future__ import annotations

GENERIC: tuple[str, ...] = (
    "What is the {p} of {n}?",
    "What is {n}'s {p}?",
    "What's the {p} of {n}?",
    "What's {n}'s {p}?",
    "Tell me the {p} of {n}.",
    "Tell me {n}'s {p}.",
    "Tell me about the {p} of {n}.",
    "Can you tell me the {p} of {n}?",
    "Could you tell me what the {p} of {n} is?",
    "Do you know the {p} of {n}?",
    "Do you know what {n}'s {p} is?",
    "Do you remember {n}'s {p}?",
    "What {p} does {n} have?",
    "Which {p} does {n} have?",
    "Which {p} belongs to {n}?",
    "I want to know the {p} of {n}.",
    "I would like to know {n}'s {p}.",
    "I need the {p} of {n}.",
    "I am looking for the {p} of {n}.",
    "I forgot the {p} of {n}, what was it?",
    "Please give me the {p} of {n}.",
    "Give me {n}'s {p}.",
    "Show me the {p} of {n}.",
    "Look up the {p} of {n}.",
    "Find the {p} of {n} for me.",
    "Remind me of the {p} of {n}.",
    "The {p} of {n}?",
    "{p} of {n}?",
    "{p} of {n}",
    "{n}'s {p}?",
    "{n}: {p}?",
    "{n}, {p}?",
    "For {n}, what is the {p}?",
    "About {n}: what is the {p}?",
    "As for {n}, what about the {p}?",
    "Regarding {n}, which {p} is on record?",
    "How would you describe the {p} of {n}?",
    "What can you say about the {p} of {n}?",
    "What do you know about the {p} of {n}?",
    "What do we have as the {p} of {n}?",
    "What is known about {n}'s {p}?",
    "What is recorded as the {p} of {n}?",
    "Is there a {p} for {n}?",
    "Does {n} have a {p}, and if so which?",
    "My question is about {n}: the {p}, please.",
    "When somebody asks for the {p} of {n}, what do I say?",
)

HELD_OUT_GENERIC: tuple[str, ...] = (
    "I need to find out what {p} {n} has.",
    "Would you mind sharing the {p} of {n} with me?",
    "In the case of {n}, what would the {p} be?",
    "Say, what is {n}'s {p} like?",
    "the {p} of {n}",
    "{n} {p}?",
    "{n} {p}",
    "Any idea what the {p} of {n} might be?",
    "What did they write down as {n}'s {p}?",
    "I wonder what the {p} of {n} is.",
    "Let me have the {p} that goes with {n}.",
    "Speaking of {n}, you must know its {p}.",
    "Fill in the blank: the {p} of {n} is ...",
    "If you had to state the {p} of {n}, what would you say?",
    "Which {p} is listed under {n}?",
)

OPEN: tuple[str, ...] = (
    "What do you know about {n}?",
    "Tell me about {n}.",
    "Tell me everything about {n}.",
    "What can you tell me about {n}?",
    "Who or what is {n}?",
    "Do you know {n}?",
    "Have you heard of {n}?",
    "Give me some facts about {n}.",
    "Give me all the facts about {n}.",
    "I want to know more about {n}.",
    "What is there to know about {n}?",
    "What information do you have on {n}?",
    "What have we got on {n}?",
    "Describe {n} to me.",
    "Introduce {n} to me.",
    "List what you know about {n}.",
)
HELD_OUT_OPEN: tuple[str, ...] = (
    "Could you fill me in on {n}?",
    "Say something about {n}.",
    "What should one know about {n}?",
    "{n}: anything you know, please.",
    "Write a few words about {n}.",
    "I have never heard of {n}, please explain.",
    "Does the name {n} mean anything to you?",
    "Which details are stored about {n}?",
    "Share your knowledge of {n} with me.",
    "Sum up {n} for me.",
)

PAIR: tuple[str, ...] = (
    "What is the {p1} of {n1} and the {p2} of {n2}?",
    "What is the {p1} of {n1}, and what is the {p2} of {n2}?",
    "What are {n1}'s {p1} and {n2}'s {p2}?",
    "What are the {p1} of {n1} and the {p2} of {n2}?",
    "Tell me the {p1} of {n1} and the {p2} of {n2}.",
    "Can you tell me {n1}'s {p1} and the {p2} of {n2}?",
    "Do you know the {p1} of {n1}, and also the {p2} of {n2}?",
    "Give me {n1}'s {p1} and {n2}'s {p2}.",
    "I want to know the {p1} of {n1} and the {p2} of {n2}.",
    "I need two things: the {p1} of {n1} and the {p2} of {n2}.",
    "Look up the {p1} of {n1}, then the {p2} of {n2}.",
    "The {p1} of {n1} and the {p2} of {n2}?",
    "the {p1} of {n1} and the {p2} of {n2}",
    "Please name the {p1} of {n1} as well as the {p2} of {n2}.",
)
HELD_OUT_PAIR: tuple[str, ...] = (
    "First the {p1} of {n1}, second the {p2} of {n2}, please.",
    "Not only the {p1} of {n1} interests me, but also the {p2} of {n2}.",
    "Could I have {n1}'s {p1} together with {n2}'s {p2}?",
    "How about the {p1} of {n1} plus the {p2} of {n2}?",
    "Which {p1} does {n1} have, and which {p2} does {n2} have?",
    "{n1}'s {p1} and {n2}'s {p2}?",
    "Find out both the {p1} of {n1} and the {p2} of {n2}.",
    "Besides the {p1} of {n1} I also want the {p2} of {n2}.",
    "Say what the {p1} of {n1} is, and the {p2} of {n2} too.",
    "I wonder about two facts, namely {n1}'s {p1} and the {p2} of {n2}.",
)
ONE_ENTITY: tuple[str, ...] = (
    "What are the {p1} and the {p2} of {n1}?",
    "What is the {p1} and the {p2} of {n1}?",
    "Tell me the {p1} and the {p2} of {n1}.",
    "What are {n1}'s {p1} and {p2}?",
    "the {p1} and the {p2} of {n1}",
    "Do you know {n1}'s {p1} and {p2}?",
    "Give me the {p1} and {p2} of {n1}.",
    "For {n1}, I need the {p1} and the {p2}.",
    "What is the {p1} of {n1}, and what is its {p2}?",
    "Which {p1} and which {p2} does {n1} have?",
)
HELD_OUT_ONE_ENTITY: tuple[str, ...] = (
    "Concerning {n1}: both its {p1} and its {p2}, please.",
    "What {p1} does {n1} have, and what {p2}?",
    "Could I have {n1}'s {p1} along with its {p2}?",
    "Besides the {p1} of {n1}, what about the {p2}?",
    "{n1}: {p1} and {p2}?",
    "I wonder what the {p1} and the {p2} of {n1} are.",
    "Name two things about {n1}, the {p1} and the {p2}.",
    "Please look for {n1}, its {p1} as well as its {p2}.",
    "Say both the {p1} and the {p2} of {n1}.",
    "How about {n1}'s {p1}, and {p2} too?",
)
ONE_PROPERTY: tuple[str, ...] = (
    "What is the {p1} of {n1} and of {n2}?",
    "Tell me the {p1} of {n1} and that of {n2}.",
    "Compare the {p1} of {n1} with the {p1} of {n2}.",
    "Do {n1} and {n2} have the same {p1}?",
    "The {p1} of both {n1} and {n2}, please.",
    "Which {p1} do {n1} and {n2} have?",
)
HELD_OUT_ONE_PROPERTY: tuple[str, ...] = (
    "{n1} and {n2}: what is the {p1} of each?",
    "How does the {p1} of {n1} differ from that of {n2}?",
    "I need to know for {n1} as well as {n2} what the {p1} is.",
    "Put the {p1} of {n1} beside that of {n2}.",
)
# Between two whole questions.
JOINTS: tuple[str, ...] = (" And ", " Also, ", " Then, ")
HELD_OUT_JOINTS: tuple[str, ...] = (" Besides, ", " One more: ")

HELD_OUT_OPENINGS: tuple[str, ...] = (
    "Good morning!",
    "Sorry to bother you,",
    "Listen,",
    "A customer asks:",
    "I have a question.",
    "Could you check something?",
)
HELD_OUT_CLOSINGS: tuple[str, ...] = ("Cheers!", "Please hurry.", "I keep forgetting it.", "Just the answer, please.")
