// Package inventory knows which nodes are alive and what they say of themselves, from nothing but what is heard on the bus.
package inventory

import (
	"encoding/json"
	"time"
)

// Life is where a node is between its first beat and its last.
type Life string

// The lives of a node. Alive, Suspect and BackSoon are members of their roles.
const (
	Alive    Life = "alive"
	Suspect  Life = "suspect"   // its connection closed; it has a moment to come back
	BackSoon Life = "back soon" // its agent stopped and means to be back
	Left     Life = "left"      // it said goodbye; its agent may still be heard
	Gone     Life = "gone"      // only in the Change that says so: a node that is gone is in no snapshot
)

// Node is a machine that is heard, as of one moment. It is never changed: a newer one takes its place.
type Node struct {
	Name     string          `json:"node"`
	Instance string          `json:"instance"`
	Boot     string          `json:"boot"`
	Life     Life            `json:"life"`
	Since    time.Time       `json:"since"` // in this Life since
	Joined   time.Time       `json:"joined"`
	Ready    bool            `json:"ready"`
	NotReady string          `json:"not_ready,omitempty"`
	Facts    Facts           `json:"facts"` // nil: not known yet
	Kick     json.RawMessage `json:"kick,omitempty"`

	conn   Conn
	digest string // of the facts that it announced last
}

// Serving reports whether the node is a member of the roles that its facts match.
func (n *Node) Serving() bool {
	return n.Ready && n.Facts != nil && (n.Life == Alive || n.Life == Suspect || n.Life == BackSoon)
}
type Snapshot struct{}
