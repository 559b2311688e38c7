// Package inventory knows which nodes are alive and what they say of themselves, from nothing but what is heard on the bus.
package inventory

import (
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-memdb"

	"kicker/inventory/query"
)

// Life is where a node is between its first beat and its last.
type Life string

// The lives of a node. Alive, Suspect and BackSoon are members of their roles.
const (
	Alive      Life = "alive"
	Suspect    Life = "suspect"    // its connection closed, or it missed beats; it has a moment to come back
	Restarting Life = "restarting" // its agent stopped and means to be back
	Left       Life = "left"       // it said goodbye; its agent may still be heard
)

// Bounds of liveness, by canary time.
const (
	DefaultGoneAfter = 10 * time.Second        // silence after which a node is gone
	DisconnectGrace  = 1500 * time.Millisecond // for a closed connection to be back
	MaxRestart       = time.Minute             // the longest "back soon" that is believed

	cloneAfter   = 10 * time.Second // of a boot, one that it followed is another machine: /etc/machine-id was copied
	closedMemory = time.Minute      // a beat of a closed connection can't be later than this
	askAgain     = 2 * time.Second
	maxAsked     = 1000 // facts asked for at once: even 64 KiB from each fit into what the server keeps for the listener
	maxPending   = 4096
	maxNodes     = 250_000 // more can only be garbage
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
	Checking bool            `json:"checking,omitempty"` // not ready, as far as is known
	Facts    Facts           `json:"facts"`              // nil: not known yet
	Kick     json.RawMessage `json:"kick,omitempty"`

	conn     Conn
	digest   string    // of the facts that it announced last; Facts may still be older
	until    time.Time // Suspect by a closed connection, BackSoon: gone when a later canary came through
	why      string    // Suspect: of what
	oldBoots []string  // boots of this instance that were replaced, newest last
}

// Serving reports whether the node is a member of the roles that its facts match.
func (n *Node) Eligible() bool {
	return n != nil && n.Ready && n.Facts != nil && (n.Life == Alive || n.Life == Suspect || n.Life == Restarting)
}

// Change is one node's step from Before to After. Before nil: it joined; After nil: it is no longer heard.
type Change struct {
	Before, After *Node
	Why           string // for people
}

// Conflict is why a heartbeat was refused: another instance bears the name that it claims, and is heard.
type Conflict struct{ Node, Accepted, Rejected string }

func (c *Conflict) Error() string {
	return fmt.Sprintf("heartbeat of %s: instance %s also claims the name that instance %s bears: one of them must be renamed", c.Node, c.Rejected, c.Accepted)
}

// Inventory is the nodes that are heard. It belongs to one goroutine, which feeds it what Listen hears; any other may read a
// Snapshot. It decides by canary time alone: the moments at which the listener's own beats came back to it.
type Inventory struct {
	db      *memdb.MemDB
	leases  *leases
	byConn  map[Conn]string
	waiting map[string]time.Time    // Suspect and BackSoon nodes, by name: Node.until
	closed  map[Conn]time.Time      // closed connections, whose beats may still arrive
	pending map[string]pendingFacts // facts that came before their beat
	asked   map[string]time.Time    // nodes whose facts were asked for
	probes  []string                // suspects that are to be asked for a beat

	// GoneAfter is the silence after which a node is gone. Set it before the first Take.
	GoneAfter func(*Node) time.Duration
}

// New is an empty inventory.
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
		db:        db,
		leases:    &leases{byNode: map[string]*lease{}},
		byConn:    map[Conn]string{},
		waiting:   map[string]time.Time{},
		closed:    map[Conn]time.Time{},
		pending:   map[string]pendingFacts{},
		asked:     map[string]time.Time{},
		GoneAfter: func(*Node) time.Duration { return DefaultGoneAfter },
	}
}

// Take takes in one thing that was heard, and returns what it changed. An error is a message that was refused: it changed nothing.
func (inv *Inventory) Apply(h Received) ([]Change, error) {
	switch {
	case h.Invalid != nil:
		return nil, h.Invalid
	case h.Beat != nil:
		return inv.beat(h)
	case h.Facts != nil:
		return inv.facts(*h.Facts, h.At)
	case h.Disconnect != nil:
		return inv.close(*h.Disconnect, h.At), nil
	case h.Canary:
		return inv.sweep(h.At), nil
	case h.Missed != "":
		inv.leases.wasBlind(h.At)
		inv.renew(h.At)
	}
	return nil, nil
}

func (inv *Inventory) beat(h Received) ([]Change, error) {
	b := h.Beat
	was := inv.node(b.Node)
	closed, late := inv.closed[b.Conn] // sent before its connection closed, handled after: it happens
	if late && !lastWords(b, was) {
		return nil, nil
	}
	next := &Node{
		Name: b.Node, Instance: b.Instance, Boot: b.Boot, Life: Alive, Since: h.At, Joined: h.At,
		Ready: b.Ready, NotReady: b.NotReady, Checking: b.Checking, Kick: b.Kick, conn: b.Conn, digest: b.Facts,
	}
	why := ""
	switch {
	case was == nil && inv.leases.len() >= maxNodes:
		return nil, fmt.Errorf("heartbeat of %s: %d nodes are heard already", b.Node, maxNodes)
	case was == nil:
	case was.Instance != b.Instance:
		if was.Life == Alive && !inv.leases.late(b.Node) {
			return nil, &Conflict{Node: b.Node, Accepted: was.Instance, Rejected: b.Instance}
		}
		why = "another instance bears the name"
	case slices.Contains(was.oldBoots, b.Boot):
		if h.At.Sub(was.Joined) > cloneAfter { // too late for the last words of a machine that booted
			return nil, &Conflict{Node: b.Node, Accepted: was.Instance + " in boot " + was.Boot, Rejected: b.Instance + " in boot " + b.Boot}
		}
		return nil, nil
	case was.Boot != b.Boot:
		next.oldBoots = append(slices.Clone(was.oldBoots[max(0, len(was.oldBoots)-3):]), was.Boot)
		why = "booted again"
	default:
		next.Joined, next.oldBoots = was.Joined, was.oldBoots
		next.Facts = was.Facts // until the new ones arrive
		if b.Checking && was.Ready && was.Life != Left {
			next.Ready, next.NotReady, next.Checking = true, "", false // its agent was started again, not its service
		}
	}
	switch {
	case b.Leaving:
		next.Life, why = Left, "said goodbye"
	case b.RestartWithin > 0:
		within := min(b.RestartWithin, MaxRestart.Milliseconds())
		next.Life, next.until = Restarting, h.At.Add(time.Duration(within)*time.Millisecond)
	}
	if was != nil && was.Life == next.Life && was.Boot == next.Boot {
		next.Since = was.Since
	}
	inv.attachFacts(next, was)
	if was != nil {
		inv.disown(was)
	}
	inv.byConn[b.Conn] = b.Node
	inv.wait(next)
	inv.leases.renew(b.Node, h.raw, h.At, time.Duration(b.NextIn)*time.Millisecond)
	inv.put(next)
	changes := []Change{{Before: was, After: next, Why: why}}
	if late { // as if it had come before the closing
		changes = append(changes, inv.close(Disconnect{Conn: b.Conn}, closed)...)
	}
	return changes, nil
}

// lastWords reports whether a late beat says why the connection of a node closed. No other revives anybody.
func lastWords(b *Beat, was *Node) bool {
	return was != nil && was.Life == Suspect && was.conn == b.Conn && was.Instance == b.Instance && was.Boot == b.Boot && (b.Leaving || b.RestartWithin > 0)
}

// attachFacts gives a node the facts that it announced the digest of, if they are known.
func (inv *Inventory) attachFacts(n, was *Node) {
	if was != nil && was.Facts != nil && was.Instance == n.Instance && was.Facts.Digest() == n.digest {
		n.Facts = was.Facts
		delete(inv.asked, n.Name)
		return
	}
	if m, ok := inv.pending[n.Name]; ok && m.Instance == n.Instance && m.Boot == n.Boot && m.Facts.Digest() == n.digest {
		n.Facts = m.Facts
		delete(inv.pending, n.Name)
		delete(inv.asked, n.Name)
		return
	}
	if _, ok := inv.asked[n.Name]; !ok {
		inv.asked[n.Name] = time.Time{}
	}
}

type pendingFacts struct {
	FactsMessage
	at time.Time
}

func (inv *Inventory) facts(m FactsMessage, at time.Time) ([]Change, error) {
	was := inv.node(m.Node)
	if was == nil || was.Instance != m.Instance || was.Boot != m.Boot || was.digest != m.Facts.Digest() {
		if _, known := inv.pending[m.Node]; !known && len(inv.pending) >= maxPending {
			return nil, fmt.Errorf("facts of %s: the facts of %d nodes without a heartbeat are kept already", m.Node, maxPending)
		}
		inv.pending[m.Node] = pendingFacts{m, at} // the beat that announces them comes next
		return nil, nil
	}
	delete(inv.asked, m.Node)
	next := *was
	next.Facts = m.Facts
	inv.put(&next)
	return []Change{{Before: was, After: &next}}, nil
}

func (inv *Inventory) close(c Disconnect, at time.Time) []Change {
	inv.closed[c.Conn] = at
	name, ok := inv.byConn[c.Conn]
	if !ok {
		return nil
	}
	delete(inv.byConn, c.Conn)
	was := inv.node(name)
	switch was.Life {
	case Left:
		return inv.remove(was, "its agent stopped")
	case Alive, Suspect:
		return []Change{inv.suspect(was, at, "its connection closed: "+c.Why, at.Add(DisconnectGrace))}
	}
	return nil
}

// suspect makes a node a suspect, until a beat of it is heard. It is gone at until, or zero, after silence.
func (inv *Inventory) suspect(n *Node, at time.Time, why string, until time.Time) Change {
	next := *n
	next.Life, next.why, next.until = Suspect, why, until
	if n.Life != Suspect {
		next.Since = at
	}
	inv.wait(&next)
	inv.put(&next)
	inv.leases.forgetBeat(n.Name) // the same bytes again say something new, or are a late beat of a closed connection
	return Change{Before: n, After: &next, Why: why}
}

// sweep is run when a canary came through: what was not heard by now was not sent.
func (inv *Inventory) sweep(canary time.Time) []Change {
	if inv.leases.returning(canary) {
		inv.renew(canary)
	}
	var changes []Change
	for name, until := range inv.waiting {
		if canary.Before(until) {
			continue
		}
		n := inv.node(name)
		why := fmt.Sprintf("its agent stopped and was not back within %s", MaxRestart)
		if n.Life == Suspect {
			why = fmt.Sprintf("%s, and it was not back within %s", n.why, DisconnectGrace)
		}
		changes = append(changes, inv.remove(n, why)...)
	}
	for _, silent := range inv.leases.missed(canary) {
		n := inv.node(silent.node)
		if _, ok := inv.waiting[n.Name]; ok {
			continue // for something else, above
		}
		if silent.since >= max(silent.least, inv.GoneAfter(n)) {
			changes = append(changes, inv.remove(n, fmt.Sprintf("silent for %.1f s", silent.since.Seconds()))...)
		} else if n.Life == Alive {
			changes = append(changes, inv.suspect(n, canary, fmt.Sprintf("silent for %.1f s", silent.since.Seconds()), time.Time{}))
			inv.probes = append(inv.probes, n.Name)
		}
	}
	for conn, at := range inv.closed {
		if canary.Sub(at) > closedMemory {
			delete(inv.closed, conn)
		}
	}
	for name, facts := range inv.pending {
		if canary.Sub(facts.at) > askAgain {
			delete(inv.pending, name) // the beat should have followed at once; facts can be asked for again
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Before.Name, b.Before.Name) })
	return changes
}

// renew gives every node its full time anew: nothing can be told from silence until now.
func (inv *Inventory) renew(at time.Time) {
	inv.leases.renewAll(at)
	for name := range inv.waiting {
		n := *inv.node(name)
		if until := at.Add(max(DisconnectGrace, inv.GoneAfter(&n))); until.After(n.until) {
			n.until = until
		}
		inv.wait(&n)
		inv.put(&n)
	}
}

// Owing is how many nodes have announced facts that are not known.
func (inv *Inventory) MissingFacts() int { return len(inv.asked) }

// Wanting is the nodes to be asked for their facts now, few at once. It takes them as asked.
func (inv *Inventory) FactsToRequest(now time.Time) []string {
	var names []string
	room := maxAsked
	for name, at := range inv.asked {
		if now.Sub(at) >= askAgain {
			names = append(names, name)
		} else {
			room-- // its facts may be on their way
		}
	}
	names = names[:min(len(names), max(room, 0))]
	for _, name := range names {
		inv.asked[name] = now
	}
	slices.Sort(names)
	return names
}

// Len is how many nodes are heard.
func (inv *Inventory) Len() int { return inv.leases.len() }

// Probing is the nodes to be asked for a beat now. It takes them as asked.
func (inv *Inventory) NewSuspects() []string {
	names := inv.probes
	inv.probes = nil
	return names
}

func (inv *Inventory) wait(n *Node) {
	if n.until.IsZero() {
		delete(inv.waiting, n.Name)
	} else {
		inv.waiting[n.Name] = n.until
	}
}

func (inv *Inventory) put(n *Node) {
	txn := inv.db.Txn(true)
	if err := txn.Insert("node", n); err != nil {
		panic(err) // the row fits the schema
	}
	txn.Commit()
}

func (inv *Inventory) remove(n *Node, why string) []Change {
	txn := inv.db.Txn(true)
	if err := txn.Delete("node", n); err != nil {
		panic(err) // the row was read a moment ago, and nobody else writes
	}
	txn.Commit()
	inv.leases.drop(n.Name)
	delete(inv.waiting, n.Name)
	delete(inv.asked, n.Name)
	inv.disown(n)
	return []Change{{Before: n, Why: why}}
}

// disown takes a node off its connection, unless another node has claimed that since.
func (inv *Inventory) disown(n *Node) {
	if inv.byConn[n.conn] == n.Name {
		delete(inv.byConn, n.conn)
	}
}

func (inv *Inventory) node(name string) *Node { return (&Snapshot{inv.db}).Node(name) }

// Snapshot is the inventory as it is now; it never changes.
func (inv *Inventory) Snapshot() *Snapshot { return &Snapshot{inv.db.Snapshot()} }

// Snapshot is the nodes that were heard at one moment. Any goroutine may read it.
type Snapshot struct{ db *memdb.MemDB }

// Node is the node of that name, nil if it is not heard.
func (s *Snapshot) Node(name string) *Node {
	row, err := s.db.Txn(false).First("node", "id", name)
	if err != nil {
		panic(err) // table and index are constant
	}
	n, _ := row.(*Node)
	return n
}

// All is every node, by name.
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

// Len is the number of nodes.
func (s *Snapshot) Len() int {
	n := 0
	for range s.All() {
		n++
	}
	return n
}

// Roles is what the fact "role" says: one role, or several.
func (f Facts) Roles() []string {
	switch role, _ := query.Lookup(f, "role"); role := role.(type) {
	case string:
		return []string{role}
	case []any:
		var roles []string
		for _, r := range role {
			if s, ok := r.(string); ok {
				roles = append(roles, s)
			}
		}
		return roles
	}
	return nil
}
