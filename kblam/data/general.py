"""Questions that no knowledge base of ours can answer, and that any language model answers on its own."""

from __future__ import annotations

from kblam.data.tables import lines

_TRAINING = """
Write a short poem about the sea.
What is 3 + 4?
How much is 12 times 7?
What is half of 90?
Translate "good morning" into French.
Translate this sentence into German: The cat is asleep.
What is the capital of Italy?
What is the capital of Japan?
Which country has Madrid as its capital?
How do I bake bread?
How do I make scrambled eggs?
Give me a recipe for tomato soup.
Write an email to my boss asking for a day off.
Write a thank-you note to my grandmother.
Tell me a joke.
Tell me a story about a dragon.
What should I wear when it is cold?
Why is the sky blue?
Why do leaves turn red in autumn?
How does a bicycle stay upright?
What is photosynthesis?
Explain gravity to a child.
Who wrote Hamlet?
Who painted the Mona Lisa?
When did the Second World War end?
How many days are in a leap year?
How many continents are there?
What is the largest ocean?
What is the boiling point of water?
How far is the moon from the earth?
Name three fruits.
Name five animals that live in the sea.
List the colors of the rainbow.
Give me a synonym for happy.
What is the opposite of hot?
Spell the word "necessary".
What rhymes with moon?
Correct this sentence: He go to school yesterday.
Rewrite this more politely: Give me the book.
Summarize in one sentence: The dog ran across the road, and a car stopped just in time.
Is a tomato a fruit?
Can penguins fly?
Do fish sleep?
How can I fall asleep faster?
How do I learn to play the guitar?
How do I tie a tie?
How can I save money?
What is a good gift for a ten year old?
Suggest a name for my dog.
What can I cook with potatoes and cheese?
Plan a weekend in the mountains.
What should I pack for the beach?
How do I remove a coffee stain?
How do I change a tire?
How do I write a good essay?
What is a prime number?
Is 17 a prime number?
What is the square root of 16?
Count from one to ten.
Sort these numbers: 5, 2, 9, 1.
Write a Python function that adds two numbers.
What does HTML stand for?
How do I open a file in Python?
What is a variable in programming?
What is the difference between a list and a tuple?
Hello!
Hi, how are you?
Good evening.
Thank you very much.
Who are you?
What can you do?
What is your favorite color?
Are you a robot?
Say something nice.
Give me some advice.
Motivate me to go running.
I feel sad today.
I am bored. What should I do?
What is love?
What is the meaning of life?
What is democracy?
What is inflation?
Why do we have taxes?
How does a bank work?
What does a doctor do?
Why do cats purr?
How do birds know where to fly?
What do bees do?
How do plants drink?
What causes thunder?
What is a volcano?
How is glass made?
Where does chocolate come from?
Who invented the telephone?
Who was Napoleon?
What happened in 1969?
What is the longest river in the world?
Which planet is closest to the sun?
What language do people speak in Brazil?
What is the currency of the United Kingdom?
How do you say "thank you" in Spanish?
Write a haiku about snow.
Write a slogan for a coffee shop.
Write two sentences about winter.
Give me three tips for a job interview.
What is a balanced breakfast?
How many minutes are in an hour?
If I have three apples and eat one, how many are left?
A train goes 60 kilometers in one hour. How far does it go in three hours?
Which is heavier, a kilogram of iron or a kilogram of feathers?
Finish this sentence: Once upon a time
What comes after Tuesday?
What is the past tense of "run"?
Make a question out of this: She likes tea.
"""

_HELD_OUT = """
Write a poem about rain.
What is 2 + 2?
What is 15 - 6?
How much is 9 times 8?
What is a quarter of 100?
Translate "where is the station" into Spanish.
Translate "I am hungry" into Italian.
What is the capital of Peru?
What is the capital of Norway?
What is the capital of Egypt?
Write an email to my landlord about a broken heater.
How do I boil eggs?
How do I make pancakes?
Give me a recipe for a simple salad.
Write a birthday card for a colleague.
Write a letter of complaint to a hotel.
Tell me something funny.
Tell me a bedtime story about a rabbit.
What should I do when I have a cold?
Why is the sea salty?
Why is ice slippery?
How does an airplane fly?
What is evolution?
Explain electricity to a five year old.
Who wrote Romeo and Juliet?
Who discovered penicillin?
When did people first land on the moon?
How many hours are in a week?
How many legs does a spider have?
What is the highest mountain in the world?
At what temperature does water freeze?
How fast does light travel?
Name three vegetables.
Name four musical instruments.
List the months of the year.
Give me a synonym for quick.
What is the opposite of dark?
Spell the word "rhythm".
What rhymes with cat?
Correct this sentence: They was late.
Rewrite this in the past tense: I walk home.
Summarize in a few words: It rained all day, so we stayed inside and played cards.
Is a whale a fish?
Can ostriches fly?
Do trees sleep?
How can I concentrate better?
How do I learn a new language?
How do I fold a shirt?
How can I be on time?
What is a good gift for a wedding?
Suggest a name for my cat.
What can I cook with rice and beans?
Plan a day in a big city.
What should I take on a camping trip?
How do I clean a window?
How do I plant a tree?
How do I start a speech?
What is an even number?
Is 21 a prime number?
What is the square root of 81?
Count backwards from five.
Which of these is the largest: 4, 11, 7?
Write a Python program that prints hello.
What does CPU stand for?
How do I write a loop in Python?
What is a database?
What is the difference between a stack and a queue?
Hey there!
How was your day?
Good night.
Nice to meet you.
What is your name?
How can you help me?
Do you like music?
Are you a human?
Give me a compliment.
What should I read next?
Encourage me to study.
I am nervous about tomorrow.
I cannot decide what to eat.
What is friendship?
What makes people happy?
What is a constitution?
What is a stock market?
Why do people vote?
How does the internet work?
What does a lawyer do?
Why do dogs bark?
How do spiders make webs?
Why do onions make me cry?
What causes an earthquake?
What is a glacier?
How is paper made?
Where does coffee come from?
Who invented the light bulb?
Who was Cleopatra?
What is the largest desert in the world?
Which planet has rings?
Write a limerick about a frog.
If a book costs 5 dollars, what do four books cost?
"""


def general_questions(*, held_out: bool = False) -> tuple[str, ...]:
    """General prompts: the 100 that training never sees, or the others."""
    return lines(_HELD_OUT if held_out else _TRAINING)
