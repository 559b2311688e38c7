package inventory

import (
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-memdb"
)

// Life is where a node is between its first heartbeat and its last.
type Life string

// The lives of a node. In all of them but Left it can be a member of roles.
const (
	Alive      Life = "alive"
	Suspect    Life = "suspect"    // its connection closed, or heartbeats are missing
	Restarting Life = "restarting" // its agent stopped and announced that it will be back
	Left       Life = "left"       // it left on purpose; its agent may still run
)

// Bounds of liveness, in canary time.
const (
	DefaultGoneAfter = 10 * time.Second        // silence after which a node is gone
	DisconnectGrace  = 1500 * time.Millisecond // for a node to reconnect after its connection closed
	MaxRestart       = time.Minute             // the longest time that an agent gets to restart

	cloneAfter         = 10 * time.Second // after a reboot; then the old boot is another machine's
	rememberDisconnect = time.Minute      // no heartbeat arrives later than this after its connection closed
	requestAgain       = 2 * time.Second  // after facts were requested in vain
	maxRequests        = 1000             // for facts at once; the server must be able to keep all answers
	maxEarlyFacts      = 4096             // facts without a heartbeat
	maxNodes           = 250_000          // more are an attack or a mistake
)

// Node is one machine at one moment. A Node is never changed: a newer one replaces it.
type Node struct {
	Name     string          `json:"node"`
	Instance string          `json:"instance"` // which machine has the name
	Boot     string          `json:"boot"`     // which boot of that machine
	Life     Life            `json:"life"`
	Since    time.Time       `json:"since"`  // start of this Life
	Joined   time.Time       `json:"joined"` // first heartbeat of this boot
	Ready    bool            `json:"ready"`
	NotReady string          `json:"not_ready,omitempty"` // why not
	Checking bool            `json:"checking,omitempty"`  // not ready, but its agent has yet to check
	Facts    Facts           `json:"facts"`               // nil: not known yet
	Kick     json.RawMessage `json:"kick,omitempty"`      // see Beat.Kick

	agent    string // which run of its agent reported it
	conn     Conn
	digest   string   // of the facts that it announces; Facts may be older
	oldBoots []string // boots of this instance before Boot, newest last
}

// Eligible reports whether the node is a member of the roles that its facts match.
func (n *Node) Eligible() bool {
	return n != nil && n.Ready && n.Facts != nil && (n.Life == Alive || n.Life == Suspect || n.Life == Restarting)
}

// Change is one step of a node. Before is nil if it joined, After is nil if it is gone.
type Change struct {
	Before, After *Node
	Why           string // for people
}

// Conflict is the error for a heartbeat that claims the name of another instance, which is alive.
type Conflict struct{ Node, Accepted, Rejected string }

func (c *Conflict) Error() string {
	const text = "two machines claim the name %s: instance %s is accepted, instance %s is rejected"
	return fmt.Sprintf(text, c.Node, c.Accepted, c.Rejected)
}

// Inventory is the nodes that are not gone. It belongs to one goroutine, which applies what Listen receives.
type Inventory struct {
	db           *memdb.MemDB
	leases       *leases
	byConn       map[Conn]string
	disconnected map[Conn]time.Time   // when each connection closed: heartbeats over it may still arrive
	earlyFacts   map[string]Received  // by node: facts that arrived before the heartbeat that announces them
	missingFacts map[string]time.Time // by node: when facts that are not known were last requested
	newSuspects  []string             // by silence; to be asked for a heartbeat
	ordered      map[string]string    // by node: the run of its agent that was ordered to leave
	former       map[string]string    // by node that is gone: the run of its agent

	// GoneAfter is the silence after which a node is gone. Set it before the first Apply.
	GoneAfter func(*Node) time.Duration
}

// New returns an empty inventory.
func New() *Inventory {
	db, err := memdb.NewMemDB(&memdb.DBSchema{Tables: map[string]*memdb.TableSchema{
		"node": {Name: "node", Indexes: map[string]*memdb.IndexSchema{
			"id": {Name: "id", Unique: true, Indexer: &memdb.StringFieldIndex{Field: "Name"}},
		}},
	}})
	if err != nil {
		panic(err) // the schema is constant
	}
	return &Inventory{
		db:           db,
		leases:       &leases{byNode: map[string]*lease{}},
		byConn:       map[Conn]string{},
		disconnected: map[Conn]time.Time{},
		earlyFacts:   map[string]Received{},
		missingFacts: map[string]time.Time{},
		ordered:      map[string]string{},
		former:       map[string]string{},
		GoneAfter:    func(*Node) time.Duration { return DefaultGoneAfter },
	}
}

// Apply applies one thing that was received and returns what it changed: nothing on an error, such as a *Conflict.
func (inv *Inventory) Apply(r Received) ([]Change, error) {
	inv.leases.mu.Lock()
	defer inv.leases.mu.Unlock()
	switch {
	case r.Invalid != nil:
		return nil, r.Invalid
	case r.Beat != nil:
		return inv.applyBeat(r)
	case r.Facts != nil:
		return inv.applyFacts(r)
	case r.Disconnect != nil:
		return inv.applyDisconnect(*r.Disconnect, r.At), nil
	case r.Canary:
		return inv.applyCanary(r.At), nil
	case r.Missed != "":
		inv.leases.missed, inv.leases.reconnecting = r.At, false
		inv.renewAll(r.At)
	}
	return nil, nil
}

func (inv *Inventory) applyBeat(r Received) ([]Change, error) {
	b := r.Beat
	before := inv.node(b.Node)
	closed, late := inv.disconnected[b.Conn] // the report of a disconnect can overtake a heartbeat
	if late && !announcesStop(b, before) {
		return nil, nil
	}
	if before == nil && len(inv.leases.byNode) >= maxNodes {
		return nil, fmt.Errorf("heartbeat of %s: there are %d nodes already, no more are accepted", b.Node, maxNodes)
	}
	if before != nil {
		if err := inv.conflict(before, b, r.At); err != nil {
			return nil, err
		}
		if before.Instance == b.Instance && slices.Contains(before.oldBoots, b.Boot) {
			return nil, nil // sent before the reboot
		}
		inv.releaseConn(before)
		inv.leases.noteReport(inv.leases.byNode[b.Node])
	}
	after, why := successor(before, b, inv.staysAway(b), r.At)
	inv.attachFacts(after, before)
	held := &lease{beat: r.raw, received: r.At, next: time.Duration(b.NextIn) * time.Millisecond}
	if after.Life == Restarting {
		within := min(b.RestartWithin, MaxRestart.Milliseconds())
		held.deadline = r.At.Add(time.Duration(within) * time.Millisecond)
		held.overdue = fmt.Sprintf("its agent stopped and was not back within %gm", MaxRestart.Minutes())
	}
	inv.leases.byNode[b.Node] = held
	inv.byConn[b.Conn] = b.Node
	inv.put(after)
	changes := []Change{{Before: before, After: after, Why: why}}
	if late { // as if it had arrived before the disconnect
		changes = append(changes, inv.applyDisconnect(Disconnect{Conn: b.Conn}, closed)...)
	}
	return changes, nil
}

// announcesStop reports whether a late heartbeat explains why a suspect's connection closed. No other late one counts.
func announcesStop(b *Beat, n *Node) bool {
	return (b.Leaving || b.RestartWithin > 0) &&
		n != nil && n.Life == Suspect && n.conn == b.Conn && n.Instance == b.Instance && n.Boot == b.Boot
}

// conflict returns a *Conflict if a heartbeat comes from another machine than the node, which is alive.
func (inv *Inventory) conflict(n *Node, b *Beat, at time.Time) error {
	_, late := inv.leases.silence(inv.leases.byNode[n.Name])
	switch {
	case n.Instance != b.Instance && b.standsIn():
		return &Conflict{n.Name, n.Instance, b.Instance}
	case n.Instance != b.Instance && (n.Life != Alive || late):
	case n.Instance != b.Instance:
		return &Conflict{n.Name, n.Instance, b.Instance}
	case slices.Contains(n.oldBoots, b.Boot) && at.Sub(n.Joined) > cloneAfter:
		return &Conflict{n.Name, n.Instance + " in boot " + n.Boot, b.Instance + " in boot " + b.Boot}
	}
	return nil
}

// successor returns the node after a heartbeat, without new facts, and why it changed.
func successor(before *Node, b *Beat, staysAway bool, at time.Time) (n *Node, why string) {
	n = &Node{
		Name: b.Node, Instance: b.Instance, Boot: b.Boot, Life: Alive, Since: at, Joined: at,
		Ready: b.Ready, NotReady: b.NotReady, Checking: b.Checking, Kick: b.Kick,
		agent: b.Agent, conn: b.Conn, digest: b.Facts,
	}
	switch {
	case before == nil:
	case before.Instance != b.Instance:
		why = "another instance has the name"
	case before.Boot != b.Boot:
		n.oldBoots = append(slices.Clone(before.oldBoots[max(0, len(before.oldBoots)-3):]), before.Boot)
		why = "rebooted"
	default:
		n.Joined, n.oldBoots = before.Joined, before.oldBoots
		n.Facts = before.Facts // until the new ones arrive
		if b.Checking && before.Ready && before.Life != Left {
			n.Ready, n.NotReady, n.Checking = true, "", false // its agent restarted, its service did not
		}
	}
	switch {
	case b.Leaving || staysAway:
		n.Life, why = Left, "left"
	case b.RestartWithin > 0:
		n.Life = Restarting
	}
	if before != nil && before.Life == n.Life && before.Boot == n.Boot {
		n.Since = before.Since
	}
	return n, why
}

// attachFacts gives a node the facts that it announces if they are known, and else notes that they are missing.
func (inv *Inventory) attachFacts(n, before *Node) {
	early := inv.earlyFacts[n.Name].Facts
	switch {
	case n.Life == Left && n.digest == "": // its agent does not run
		n.Facts = Facts{}
		if before != nil && before.Instance == n.Instance && before.Facts != nil {
			n.Facts = before.Facts
		}
		n.digest = n.Facts.Digest()
		delete(inv.missingFacts, n.Name)
	case before != nil && before.Facts != nil && before.Instance == n.Instance && before.Facts.Digest() == n.digest:
		n.Facts = before.Facts
		delete(inv.missingFacts, n.Name)
	case early != nil && n.announces(early):
		n.Facts = early.Facts
		delete(inv.earlyFacts, n.Name)
		delete(inv.missingFacts, n.Name)
	default:
		if _, missing := inv.missingFacts[n.Name]; !missing {
			inv.missingFacts[n.Name] = time.Time{} // not requested yet
		}
	}
}

// announces reports whether facts are those that a node announces.
func (n *Node) announces(m *FactsMessage) bool {
	return n.Instance == m.Instance && n.Boot == m.Boot && n.digest == m.Facts.Digest()
}

func (inv *Inventory) applyFacts(r Received) ([]Change, error) {
	m := r.Facts
	before := inv.node(m.Node)
	if before == nil || !before.announces(m) {
		if _, known := inv.earlyFacts[m.Node]; !known && len(inv.earlyFacts) >= maxEarlyFacts {
			return nil, fmt.Errorf("facts of %s: %d nodes sent facts and no heartbeat already", m.Node, maxEarlyFacts)
		}
		inv.earlyFacts[m.Node] = r
		return nil, nil
	}
	delete(inv.missingFacts, m.Node)
	after := *before
	after.Facts = m.Facts
	inv.put(&after)
	return []Change{{Before: before, After: &after}}, nil
}

func (inv *Inventory) applyDisconnect(d Disconnect, at time.Time) []Change {
	inv.disconnected[d.Conn] = at
	name, ok := inv.byConn[d.Conn]
	if !ok {
		return nil
	}
	delete(inv.byConn, d.Conn)
	n := inv.node(name)
	switch n.Life {
	case Left:
		return []Change{inv.remove(n, "its agent stopped")}
	case Alive, Suspect:
		why := fmt.Sprintf("its connection closed (%s)", d.Why)
		held := inv.leases.byNode[name]
		held.deadline = at.Add(DisconnectGrace)
		held.overdue = fmt.Sprintf("%s and it did not reconnect within %gs", why, DisconnectGrace.Seconds())
		return []Change{inv.suspect(n, at, why)}
	}
	return nil
}

// suspect makes a node Suspect until its next heartbeat.
func (inv *Inventory) suspect(n *Node, at time.Time, why string) Change {
	after := *n
	after.Life = Suspect
	if n.Life != Suspect {
		after.Since = at
	}
	inv.put(&after)
	inv.leases.byNode[n.Name].beat = nil // its next heartbeat changes it even if it repeats the last one
	return Change{Before: n, After: &after, Why: why}
}

// applyCanary moves canary time forward: a heartbeat that has not been received by now was not sent.
func (inv *Inventory) applyCanary(canary time.Time) []Change {
	if inv.leases.reconnecting && canary.Sub(inv.leases.missed) <= reconnectWithin {
		inv.renewAll(canary)
	}
	inv.leases.canary, inv.leases.reconnecting = canary, false
	var changes []Change
	for name, held := range inv.leases.byNode {
		silence, late := inv.leases.silence(held)
		switch {
		case !held.deadline.IsZero():
			if !canary.Before(held.deadline) {
				changes = append(changes, inv.remove(inv.node(name), held.overdue))
			}
		case late:
			n := inv.node(name)
			why := fmt.Sprintf("silent for %.1fs", silence.Seconds())
			if silence >= max(held.next*7/2, inv.GoneAfter(n)) {
				changes = append(changes, inv.remove(n, why))
			} else if n.Life == Alive {
				changes = append(changes, inv.suspect(n, canary, why))
				inv.newSuspects = append(inv.newSuspects, name)
			}
		}
	}
	for conn, at := range inv.disconnected {
		if canary.Sub(at) > rememberDisconnect {
			delete(inv.disconnected, conn)
		}
	}
	for name, facts := range inv.earlyFacts {
		if canary.Sub(facts.At) > requestAgain {
			delete(inv.earlyFacts, name) // its heartbeat should have followed at once; facts can be requested
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Before.Name, b.Before.Name) })
	return changes
}

// renewAll gives every node its full time again: silence until now proves nothing.
func (inv *Inventory) renewAll(at time.Time) {
	inv.leases.canary, inv.leases.renewed = at, at
	for name, held := range inv.leases.byNode {
		if held.deadline.IsZero() {
			continue
		}
		if full := at.Add(max(DisconnectGrace, inv.GoneAfter(inv.node(name)))); full.After(held.deadline) {
			held.deadline = full
		}
	}
}

// MissingFacts is how many nodes have announced facts that are not known yet.
func (inv *Inventory) MissingFacts() int { return len(inv.missingFacts) }

// FactsToRequest returns the nodes whose facts must be requested now, few at a time, and counts them as requested.
func (inv *Inventory) FactsToRequest(now time.Time) []string {
	var names []string
	for name, at := range inv.missingFacts {
		if now.Sub(at) >= requestAgain {
			names = append(names, name)
		}
	}
	underWay := len(inv.missingFacts) - len(names)
	names = names[:min(len(names), max(maxRequests-underWay, 0))]
	for _, name := range names {
		inv.missingFacts[name] = now
	}
	slices.Sort(names)
	return names
}

// NewSuspects returns the nodes to ask for a heartbeat: those that became suspect by silence since the last call.
func (inv *Inventory) NewSuspects() []string {
	names := inv.newSuspects
	inv.newSuspects = nil
	return names
}

// Len is the number of nodes.
func (inv *Inventory) Len() int { return len(inv.leases.byNode) }

// put stores a node in place of its former state.
func (inv *Inventory) put(n *Node) {
	txn := inv.db.Txn(true)
	if err := txn.Insert("node", n); err != nil {
		panic(err) // the row fits the schema
	}
	txn.Commit()
}

func (inv *Inventory) remove(n *Node, why string) Change {
	txn := inv.db.Txn(true)
	if err := txn.Delete("node", n); err != nil {
		panic(err) // the row was read a moment ago, and no other goroutine writes
	}
	txn.Commit()
	delete(inv.leases.byNode, n.Name)
	delete(inv.missingFacts, n.Name)
	inv.releaseConn(n)
	bounded(inv.former, n.Name, n.agent)
	return Change{Before: n, Why: why}
}

// releaseConn ends a node's claim on its connection, unless another node has claimed it since.
func (inv *Inventory) releaseConn(n *Node) {
	if inv.byConn[n.conn] == n.Name {
		delete(inv.byConn, n.conn)
	}
}

func (inv *Inventory) node(name string) *Node { return (&Snapshot{inv.db}).Node(name) }

// Snapshot returns the nodes as they are now.
func (inv *Inventory) Snapshot() *Snapshot { return &Snapshot{inv.db.Snapshot()} }

// Snapshot is the nodes at one moment. It never changes, and any goroutine may read it.
type Snapshot struct{ db *memdb.MemDB }

// Node returns the node of that name, or nil.
func (s *Snapshot) Node(name string) *Node {
	row, err := s.db.Txn(false).First("node", "id", name)
	if err != nil {
		panic(err) // table and index are constant
	}
	n, _ := row.(*Node)
	return n
}

// All yields every node, sorted by name.
func (s *Snapshot) All() iter.Seq[*Node] {
	return func(yield func(*Node) bool) {
		rows, err := s.db.Txn(false).Get("node", "id_prefix", "")
		if err != nil {
			panic(err) // table and index are constant
		}
		for row := rows.Next(); row != nil; row = rows.Next() {
			if !yield(row.(*Node)) {
				return
			}
		}
	}
}
