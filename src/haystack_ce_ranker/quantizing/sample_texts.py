"""A few queries and texts, written for the project, to verify a quantised model on if no collection is given."""

QUERIES = (
    "how do I report a fault on a vehicle",
    "what to do when the brake does not release",
    "how many days of leave do I get",
    "who pays for a doctor's certificate",
    "at what wind speed does the line close",
    "can I take my dog on the train",
    "refund for a cancelled trip",
    "how often is the rope inspected",
    "opening hours of the mountain hut in winter",
    "password for the duty roster is forgotten",
    "what does error E-14 on the control panel mean",
    "rules for carrying gas bottles",
)

TEXTS = (
    (
        "Faults are reported on the yellow card in the cab, with the number of the vehicle and the time. Hand the "
        "card in at the end of the shift; if the vehicle must not run, call the workshop at once."
    ),
    (
        "If the parking brake does not release, check the air pressure first. Below five bar the spring holds the "
        "brake on; pump it up, or release it by hand with the lever under the left seat."
    ),
    "Every employee has thirty days of leave a year. Up to five of them may be carried over to the end of March.",
    "From the fourth day of an illness we need a certificate from a doctor. The company pays the fee.",
    "The upper section closes at gusts of seventy kilometres an hour, the lower one at ninety.",
    "Dogs travel at half fare, on a lead and with a muzzle. Guide dogs travel free of charge and without one.",
    (
        "If a trip is cancelled by us, the fare is paid back in full within fourteen days. Tickets that were not "
        "used for other reasons are not refunded."
    ),
    (
        "The haulage rope is looked over every week and tested by magnet every two years; the report goes to the "
        "authority."
    ),
    "In winter the hut is open from Friday to Sunday, from nine to four. Groups may book other days.",
    "Forgotten passwords for the duty roster are reset by the office between eight and noon; bring your badge.",
    (
        "E-14: the door contact of the second car gives no signal. Close the door again; if the message stays, run"
        " with the car locked and empty."
    ),
    (
        "Gas bottles of more than eleven kilograms travel only on the goods car, upright and tied, with the valve "
        "closed."
    ),
    "The brake test before the first descent is noted in the log, with the pressure before and after.",
    "Emergency brakes may be released only by the driver, after the line has been walked.",
    "E-41: the oil of the gearbox is too warm. Wait ten minutes at half speed before you stop.",
    (
        "Leave during the high season, from Christmas to the sixth of January, needs the consent of the head of "
        "operations."
    ),
    "Overtime is paid or taken as time off, as the employee prefers, within three months.",
    "Wind is measured at masts three and nine. The higher of the two figures counts.",
    "Snow on the platform is cleared before the first train; grit, never salt, is used beside the rack.",
    "Bicycles are carried if there is room, for a ticket of their own; in summer one car is kept free for them.",
    "The soup of the day is made from what the valley gives. Bread is baked at the hut every morning.",
    "Lost property is kept for a year at the valley station and then given to the parish.",
    "The turbine feeds the line by day and the village by night; its output depends on the melt water.",
    "Visitors are met at the gate and wear a helmet in the workshop.",
    "Uniforms are washed by the company. Hand them in on Mondays.",
    "The old steam engine runs on the first Sunday of each month, with a surcharge of ten francs.",
    "Children under six travel free of charge with an adult; school classes book a week ahead.",
    "Radios are tested at the start of every shift, channel three first.",
    "Keys of the ropeway are signed for in the book and never lent.",
    "First-aid boxes hang in each car beside the second door and are checked in May and October.",
)


def sample_requests() -> list[tuple[str, list[str]]]:
    """Return each query with all texts."""
    return [(query, list(TEXTS)) for query in QUERIES]
