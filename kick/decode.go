package kick

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits of messages.
const (
	maxMessage = 1 << 20   // bytes of a kick, a part or a roster page; as much as the bus takes
	maxAnswer  = 64 << 10  // bytes of a reply or a roster request
	maxResult  = 128 << 10 // bytes of a result
	maxStatus  = 928 << 10 // bytes of a status; a heartbeat has one
	maxReason  = 4 << 10   // bytes of a kick's reason

	MaxDepends    = 64              // needs of an action, in the node's configuration
	MaxDependsAll = 512             // needs of all actions of a node, in its configuration
	maxNeeds      = MaxDepends + 64 // needs of an action, with those that the controller's configuration adds
	maxDeparted   = 1000            // nodes in a kick that are no longer members
)

// MaxNeed is how many bytes of JSON a need takes, without its quotes. See CheckNeed.
const MaxNeed = 256

// MaxEpoch is the year 2200 in Unix milliseconds. Nodes reject a higher epoch, because it would lock out every later
// controller.
var MaxEpoch = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()

// The messages that share a node's kick subject.
const (
	kickMessage = iota // or an invalid message
	partMessage
	rosterMessage
)

// kindOf tells the messages apart by a key that only one of them has.
func kindOf(data []byte) int {
	var keys struct {
		PartOf string `json:"part_of"`
		Roster string `json:"roster"`
	}
	err := unmarshal(data, maxMessage, &keys)
	switch {
	case err == nil && keys.PartOf != "":
		return partMessage
	case err == nil && keys.Roster != "" && len(data) <= maxAnswer:
		return rosterMessage
	}
	return kickMessage
}

// decodeKick reads a kick that was sent to a node. It does not check the members against the revisions.
func decodeKick(node string, data []byte) (Kick, error) {
	var k Kick
	err := decode(data, maxMessage, &k, &k.V)
	err = cmp.Or(err,
		ensure(k.Node == node, "it is for node %q", k.Node),
		ensure(k.Epoch > 0 && k.Epoch <= MaxEpoch, "epoch %d: out of range", k.Epoch),
		checkText("controller", k.Controller, 1, 253),
		checkText("reason", k.Reason, 0, maxReason),
		ensure(len(k.Needs) <= maxNeeds, "%d needs, the limit is %d", len(k.Needs), maxNeeds),
		checkRunID(k.ID),
		checkWord("action", k.Action),
	)
	seen, departed := map[string]bool{}, 0
	for _, need := range k.Needs {
		epoch := need.Revision.Epoch
		departed += len(need.Departed)
		err = cmp.Or(err,
			checkRevision(need.Role, need.Revision),
			ensure(epoch <= k.Epoch, "role %q: revision of the later epoch %d", need.Role, epoch),
			ensure(!seen[need.Role], "role %q: it is there twice", need.Role),
		)
		seen[need.Role] = true
		for node := range need.Departed {
			err = cmp.Or(err, checkName(node))
		}
	}
	return k, cmp.Or(err, ensure(departed <= maxDeparted, "%d departed nodes, the limit is %d", departed, maxDeparted))
}

func decodeReply(data []byte) (Reply, error) {
	var r Reply
	err := decode(data, maxAnswer, &r, &r.V)
	err = cmp.Or(err,
		ensure(r.Answer != "", "no answer"),
		ensure(r.Deadline >= 0 && r.Deadline <= maxLimit, "deadline_ms %d: out of range", r.Deadline),
	)
	r.Detail = bounded(printable(r.Detail), maxText)
	if r.Answer == Accepted {
		err = cmp.Or(err, checkRunID(r.Run))
	}
	return r, err
}

// decodeResult reads a result that a node sent.
func decodeResult(node string, data []byte) (Result, error) {
	var r Result
	err := decode(data, maxResult, &r, &r.V)
	for _, name := range r.LeftBehind {
		err = cmp.Or(err, checkText("left_behind", name, 1, 64))
	}
	r.Error = bounded(printable(r.Error), maxText)
	return r, cmp.Or(err,
		ensure(len(r.LeftBehind) <= maxLeftBehind+1,
			"left_behind: %d names, the limit is %d", len(r.LeftBehind), maxLeftBehind+1),
		ensure(r.Node == node, "it names node %q", r.Node),
		checkName(r.Node),
		checkWord("action", r.Action),
		checkLast(LastRun{Run: r.Run, Outcome: r.Outcome, Duration: r.Duration}),
		checkApplied(r.Applied),
	)
}

// ParseStatus reads what a heartbeat reports of the node's actions. Empty data is a node without actions.
func ParseStatus(data json.RawMessage) (Status, error) {
	var s Status
	if len(data) == 0 {
		return s, nil
	}
	err := unmarshal(data, maxStatus, &s)
	if err = cmp.Or(err, s.check()); err != nil {
		return Status{}, fmt.Errorf("status: %w", err)
	}
	return s, nil
}

func (s Status) check() error {
	err := cmp.Or(
		ensure(s.Epoch >= 0 && s.Epoch <= MaxEpoch, "epoch %d: out of range", s.Epoch),
		checkText("controller", s.Controller, 0, 253),
		checkText("disabled", s.Disabled, 0, maxText),
		ensure(len(s.Actions) <= MaxActions, "%d actions, the limit is %d", len(s.Actions), MaxActions),
	)
	seen := map[string]bool{}
	for _, a := range s.Actions {
		err = cmp.Or(err, ensure(!seen[a.Name], "action %q: it is there twice", a.Name), a.check())
		seen[a.Name] = true
	}
	if s.Running != nil {
		limit := s.Running.Limit
		err = cmp.Or(err, checkRunID(s.Running.Run), checkWord("action", s.Running.Action),
			ensure(limit >= 0 && limit <= maxLimit, "limit_ms %d: out of range", limit))
	}
	return err
}

func (a ActionStatus) check() error {
	err := cmp.Or(
		checkWord("name", a.Name),
		ensure(len(a.DependsOn) <= MaxDepends, "it has %d needs, the limit is %d", len(a.DependsOn), MaxDepends),
		checkApplied(a.Applied),
	)
	for _, role := range a.DependsOn {
		err = cmp.Or(err, CheckNeed(role))
	}
	if a.Last != nil {
		err = cmp.Or(err, checkLast(*a.Last))
	}
	if err != nil {
		return fmt.Errorf("action %.20q: %w", a.Name, err)
	}
	return nil
}

func checkLast(l LastRun) error {
	inRange := l.Duration >= 0 && l.Failures >= 0
	return cmp.Or(
		checkRunID(l.Run),
		checkText("outcome", string(l.Outcome), 1, 32),
		ensure(inRange, "run %q: duration_ms %d, failures %d: out of range", l.Run, l.Duration, l.Failures),
	)
}

func checkApplied(applied map[string]Revision) error {
	err := ensure(len(applied) <= maxNeeds, "%d needs applied, the limit is %d", len(applied), maxNeeds)
	for role, rev := range applied {
		err = cmp.Or(err, checkRevision(role, rev))
	}
	return err
}

func checkRevision(role string, r Revision) error {
	valid := r.Epoch >= 0 && r.Epoch <= MaxEpoch && r.N >= 0 && isWord(wordChars, r.Hash)
	return cmp.Or(
		CheckNeed(role),
		ensure(valid, "role %q: invalid revision: epoch %d, n %d, hash %.20q", role, r.Epoch, r.N, r.Hash),
	)
}

// checkName accepts what can end a subject. It is inventory.CheckName in short: the packages do not know each other.
func checkName(name string) error {
	emptyPart := strings.Contains("."+name+".", "..")
	valid := len(name) <= 253 && !strings.HasPrefix(name, "_") && !emptyPart && only(wordChars+".", name)
	return ensure(valid, "node %.20q: must be 1 to 253 of a-z 0-9 _ - and single dots, not starting with _", name)
}

const (
	wordChars = "abcdefghijklmnopqrstuvwxyz0123456789_-"
	runChars  = wordChars + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

func isWord(chars, s string) bool { return s != "" && len(s) <= 64 && only(chars, s) }

func checkWord(what, s string) error {
	return ensure(isWord(wordChars, s), "%s %.20q: must be 1 to 64 characters of a-z 0-9 _ -", what, s)
}

// checkRunID accepts what is safe as the name of a directory.
func checkRunID(id string) error {
	return ensure(isWord(runChars, id), "run %.20q: must be 1 to 64 characters of a-z A-Z 0-9 _ -", id)
}

// CheckNeed accepts the canonical text of a need, such as "web", "web same=site" or "role=web,color=blue": printable,
// and at most MaxNeed bytes. Of the characters that JSON escapes, " and \\ count as two bytes, and < > & as six: a
// message that is full of needs fits whatever characters they have.
func CheckNeed(text string) error {
	size := len(text)
	for _, r := range text {
		switch r {
		case '"', '\\':
			size++
		case '<', '>', '&':
			size += 5
		}
	}
	return cmp.Or(
		checkText("need", text, 1, MaxNeed),
		ensure(size <= MaxNeed, `need %.20q: too long by %d bytes; < > & count as six, " and \ as two`, text, size-MaxNeed),
	)
}

func checkText(what, s string, least, most int) error {
	valid := utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
	return ensure(valid && len(s) >= least && len(s) <= most,
		"%s %.20q: must be %d to %d bytes of printable characters", what, s, least, most)
}

// only reports whether s has no other characters than chars.
func only(chars, s string) bool { return strings.Trim(s, chars) == "" }

// ensure returns nil if ok, or else the error.
func ensure(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// decode reads a message of at most limit bytes. version points to the message's field of that name.
func decode(data []byte, limit int, message any, version *int) error {
	if err := unmarshal(data, limit, message); err != nil {
		return err
	}
	if *version != Version {
		return fmt.Errorf("version %d, want %d", *version, Version)
	}
	return nil
}

func unmarshal(data []byte, limit int, v any) error {
	if len(data) > limit {
		return fmt.Errorf("%d bytes, the limit is %d", len(data), limit)
	}
	err := json.Unmarshal(data, v)
	if typ, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("JSON %s at .%s has the wrong type", typ.Value, typ.Field)
	}
	if err != nil {
		return fmt.Errorf("invalid JSON: %w", err)
	}
	return nil
}
