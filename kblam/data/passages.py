"""A few pages of prose, to measure how well a model foretells text that has nothing to do with a knowledge base."""

from __future__ import annotations

# The first two are in the public domain; the others were written for this test, so that no model has seen them.
PASSAGES: tuple[str, ...] = (
    # Lewis Carroll, Alice's Adventures in Wonderland (1865).
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or "
    'twice she had peeped into the book her sister was reading, but it had no pictures or conversations in it, "and '
    'what is the use of a book," thought Alice "without pictures or conversations?" So she was considering in her own '
    "mind (as well as she could, for the hot day made her feel very sleepy and stupid), whether the pleasure of making "
    "a daisy-chain would be worth the trouble of getting up and picking the daisies, when suddenly a White Rabbit with "
    "pink eyes ran close by her. There was nothing so very remarkable in that; nor did Alice think it so very much out "
    'of the way to hear the Rabbit say to itself, "Oh dear! Oh dear! I shall be late!"',
    # Jane Austen, Pride and Prejudice (1813).
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a "
    "wife. However little known the feelings or views of such a man may be on his first entering a neighbourhood, this "
    "truth is so well fixed in the minds of the surrounding families, that he is considered as the rightful property "
    "of some one or other of their daughters.",
    "The bus was late again, so I walked the last two miles along the canal. Two men were painting a boat the green of "
    "old bottles, and the smaller one kept stepping back to look at it, as if it might have changed while he bent for "
    "the brush. It had rained in the night. Where the path dips under the railway bridge there was a puddle as long as "
    "a car, and somebody had laid three bricks across it, too far apart for a child and too close together for me. By "
    "the time I reached the library the doors were open and the woman at the desk had already put on her second "
    "cardigan. She said the heating would be repaired on Thursday. She had said so last week as well.",
    "To change a bicycle tube, first take the wheel out of the frame and let out what air is left. Push one edge of "
    "the tyre over the rim with two levers, a hand's width apart, and pull the tube out, beginning opposite the valve. "
    "Before you put in the new one, run your fingers along the inside of the tyre: whatever made the hole may still be "
    "there, and it will make another. Pump a little air into the new tube so that it keeps its shape, push the valve "
    "through the rim, and work the tyre back on with your thumbs. The last few inches are always the hardest. Do not "
    "use the levers for them, because they pinch the tube, and then you may begin again.",
    "Most of the heat that leaves a house in winter leaves through the roof, the windows and the gaps nobody thinks "
    "of. A roof can be insulated in a weekend and pays for itself within a few years. Windows cost more, and how soon "
    "they pay depends on the price of fuel. The gaps are nearly free: a strip of felt under the door, a brush on the "
    "letter box, and a lid on the chimney that is no longer used. When all that is done, air the rooms twice a day for "
    "five minutes with the windows wide open. The walls stay warm, and only the damp goes out.",
)
