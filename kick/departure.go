package kick

// Departure is why a node is no longer a member of a role.
type Departure string

// The reasons of a departure.
const (
	DepartedLeft        Departure = "left"
	DepartedGone        Departure = "gone"
	DepartedNotReady    Departure = "not ready"
	DepartedDeselected  Departure = "deselected"
	DepartedFactMissing Departure = "fact missing"
	DepartedReplaced    Departure = "replaced"
	DepartedQuarantined Departure = "quarantined"
)

// Departures is all reasons.
var Departures = []Departure{
	DepartedLeft, DepartedGone, DepartedNotReady, DepartedDeselected, DepartedFactMissing, DepartedReplaced,
	DepartedQuarantined,
}

// MaxNeed is the most bytes of a dependency's canonical text.
const MaxNeed = 256
