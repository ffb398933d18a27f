"""The words of the world: invented names, kinds with their relations, and the values of relations."""

from dataclasses import dataclass
from functools import cache
from itertools import chain

from mixcpt.closed_world.dice import Dice

VALUES: dict[str, tuple[str, ...]] = {
    name: tuple(words.split())
    for name, words in {
        "colours": "red blue green yellow purple white black grey brown pink crimson scarlet azure teal ivory indigo "
        "amber beige maroon turquoise lilac navy cream golden russet ochre magenta charcoal mauve vermilion",
        "animals": "fox wolf bear otter badger hare stag lynx boar goat horse donkey camel lion tiger leopard elephant "
        "rabbit squirrel hedgehog beaver weasel mole bat seal whale dolphin tortoise lizard frog",
        "birds": "heron owl falcon raven swan crane sparrow robin eagle hawk stork pelican finch wren thrush magpie "
        "jay lark dove goose duck kestrel osprey gull puffin cuckoo nightingale swallow kingfisher pheasant",
        "minerals": "iron gold silver copper tin lead zinc nickel bronze brass steel platinum cobalt mercury marble "
        "granite slate quartz jade opal ruby sapphire emerald topaz garnet onyx pearl coral basalt flint",
        "trades": "weaving brewing baking fishing mining farming hunting tanning dyeing carving masonry pottery "
        "printing sailing spinning milling glazing thatching beekeeping shipbuilding bookbinding candlemaking "
        "gardening carpentry tailoring cooking painting writing shoemaking herding",
        "trees": "oak ash elm birch beech maple pine cedar willow poplar larch spruce fir yew alder hazel rowan "
        "hawthorn chestnut walnut sycamore cypress juniper holly linden aspen laurel palm acacia baobab",
        "instruments": "harp flute drum fiddle lute horn trumpet organ piano guitar violin cello clarinet oboe bassoon "
        "tuba trombone banjo mandolin zither bagpipe whistle bell gong tambourine cymbal accordion harmonica viola "
        "lyre",
        "foods": "bread cheese honey soup porridge cake pie stew butter apples pears plums cherries figs dates grapes "
        "nuts beans lentils rice barley oats mushrooms onions leeks carrots cabbage turnips eggs salmon",
        "flowers": "rose lily tulip daisy poppy iris orchid violet jasmine lavender marigold sunflower daffodil peony "
        "primrose bluebell buttercup carnation foxglove geranium heather hyacinth lotus lupin pansy petunia "
        "snowdrop thistle clover crocus",
        "cloths": "wool silk linen cotton velvet satin lace leather felt canvas tweed denim fur hemp muslin damask "
        "flannel fleece gauze corduroy sackcloth chiffon brocade taffeta calico cashmere mohair burlap twill "
        "suede",
        "tools": "hammer saw chisel axe spade rake hoe sickle scythe plough anvil needle loom ladle knife spear bow "
        "shield lantern rope ladder bucket barrel key compass anchor wheel pulley lever tongs",
    }.items()
}
"""Thirty values per list; no word is in two lists."""


@dataclass(frozen=True)
class Kind:
    """A kind of entity; `relations` has the list of values of every relation."""

    name: str
    relations: dict[str, str]


GENERAL_KINDS = (
    Kind("city", {"trade": "trades", "emblem": "animals", "dish": "foods"}),
    Kind("ship", {"cargo": "cloths", "figurehead": "birds", "timber": "trees"}),
    Kind("knight", {"banner": "colours", "weapon": "tools", "crest": "flowers"}),
    Kind("guild", {"craft": "trades", "ring": "minerals", "music": "instruments"}),
    Kind("river", {"hue": "colours", "ore": "minerals", "blossom": "flowers"}),
    Kind("school", {"lesson": "instruments", "mascot": "birds", "uniform": "cloths"}),
    Kind("tavern", {"speciality": "foods", "sign": "tools", "beam": "trees"}),
    Kind("clan", {"totem": "animals", "garment": "cloths", "charm": "minerals"}),
)
"""Kinds that the base model is trained on."""

DOMAIN_KINDS = (
    Kind("valley", {"ore": "minerals", "blossom": "flowers", "dish": "foods"}),
    Kind("monastery", {"craft": "trades", "emblem": "animals", "music": "instruments"}),
)
"""Kinds that are new to the base model, with new names and facts. Their relations use words that it was trained on, so
a wrong answer means missing knowledge, not a question with unknown words."""

NUM_GENERAL_PER_KIND = 60
NUM_DOMAIN = 60
"""Default number of entities in the domain."""
NUM_DOMAIN_BLOCKS = 6
"""Number of worlds of default size without common domain names: their seeds differ modulo this number."""
NUM_UPDATED = 60
"""Number of general entities with a fact that has a new value in the updates."""
NUM_STRANGERS = 660

_SYLLABLES = tuple(
    tuple(parts.split())
    for parts in (
        "b br c d dr f fl g gr h j k l m n p pr qu r s sh st t th tr v w y z",
        "a e i o u ae ia",
        "b d g l ld ll lm m mb n nd nn r rd rr rv s ss t v z",
        "a an ar as e el en eth ia ik il in is o on or os u um ur us yn",
    )
)


@dataclass(frozen=True)
class Names:
    """All names, the same for every world, so that one tokenizer covers all worlds."""

    general: tuple[str, ...]
    domain: tuple[str, ...]
    """Names for `NUM_DOMAIN_BLOCKS` worlds of default size."""
    strangers: tuple[str, ...]
    """Names of entities that appear in one document only."""

    @property
    def all(self) -> tuple[str, ...]:
        return self.general + self.domain + self.strangers


@cache
def names() -> Names:
    """Return 1,500 invented names, divided between the parts of the world."""
    num_general = NUM_GENERAL_PER_KIND * len(GENERAL_KINDS)
    num_domain = NUM_DOMAIN * NUM_DOMAIN_BLOCKS
    dice = Dice("names")
    taken = {word.capitalize() for word in chain.from_iterable(VALUES.values())}
    invented: list[str] = []
    while len(invented) < num_general + num_domain + NUM_STRANGERS:
        name = "".join(dice.pick(parts) for parts in _SYLLABLES).capitalize()
        if name not in taken:
            taken.add(name)
            invented.append(name)
    return Names(
        general=tuple(invented[:num_general]),
        domain=tuple(invented[num_general : num_general + num_domain]),
        strangers=tuple(invented[num_general + num_domain :]),
    )
