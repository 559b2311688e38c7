package kick

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Limits of messages.
const (
	maxMessage = 1 << 20  // bytes of a kick, a part or a roster page
	maxAnswer  = 64 << 10 // bytes of a reply, a result, a status or a roster request
	maxNeeds   = 64       // roles that an action depends on
)

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
		checkText("reason", k.Reason, 0, 4096),
		ensure(len(k.Needs) <= maxNeeds, "%d needs, the limit is %d", len(k.Needs), maxNeeds),
		checkRunID(k.ID),
		checkWord("action", k.Action),
	)
	seen := map[string]bool{}
	for _, need := range k.Needs {
		epoch := need.Revision.Epoch
		err = cmp.Or(err,
			checkRevision(need.Role, need.Revision),
			ensure(epoch <= k.Epoch, "role %q: revision of the later epoch %d", need.Role, epoch),
			ensure(!seen[need.Role], "role %q: it is there twice", need.Role),
		)
		seen[need.Role] = true
	}
	return k, err
}

func decodeReply(data []byte) (Reply, error) {
	var r Reply
	err := decode(data, maxAnswer, &r, &r.V)
	longest := (maxTimeout + maxGrace + slack).Milliseconds()
	err = cmp.Or(err,
		ensure(r.Answer != "", "no answer"),
		ensure(r.Deadline >= 0 && r.Deadline <= longest, "deadline_ms %d: out of range", r.Deadline),
	)
	if r.Answer == Accepted {
		err = cmp.Or(err, checkRunID(r.Run))
	}
	return r, err
}

// decodeResult reads a result that a node sent.
func decodeResult(node string, data []byte) (Result, error) {
	var r Result
	err := decode(data, maxAnswer, &r, &r.V)
	return r, cmp.Or(err,
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
	err := unmarshal(data, maxAnswer, &s)
	if err = cmp.Or(err, s.check()); err != nil {
		return Status{}, fmt.Errorf("status: %w", err)
	}
	return s, nil
}

func (s Status) check() error {
	err := cmp.Or(
		ensure(s.Epoch >= 0 && s.Epoch <= MaxEpoch, "epoch %d: out of range", s.Epoch),
		checkText("controller", s.Controller, 0, 253),
		ensure(len(s.Actions) <= maxActions, "%d actions, the limit is %d", len(s.Actions), maxActions),
	)
	seen := map[string]bool{}
	for _, a := range s.Actions {
		err = cmp.Or(err, ensure(!seen[a.Name], "action %q: it is there twice", a.Name), a.check())
		seen[a.Name] = true
	}
	if s.Running != nil {
		err = cmp.Or(err, checkRunID(s.Running.Run), checkWord("action", s.Running.Action))
	}
	return err
}

func (a ActionStatus) check() error {
	err := cmp.Or(
		checkWord("name", a.Name),
		ensure(len(a.DependsOn) <= maxNeeds, "it depends on %d roles, the limit is %d", len(a.DependsOn), maxNeeds),
		checkApplied(a.Applied),
	)
	for _, role := range a.DependsOn {
		err = cmp.Or(err, checkRole(role))
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
	err := ensure(len(applied) <= maxNeeds, "%d roles applied, the limit is %d", len(applied), maxNeeds)
	for role, rev := range applied {
		err = cmp.Or(err, checkRevision(role, rev))
	}
	return err
}

func checkRevision(role string, r Revision) error {
	valid := r.Epoch >= 0 && r.Epoch <= MaxEpoch && r.N >= 0 && isWord(wordChars, r.Hash)
	return cmp.Or(
		checkRole(role),
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

// checkRole accepts the name of a role, or a selector.
func checkRole(role string) error { return checkText("role", role, 1, 256) }

func checkText(what, s string, least, most int) error {
	printable := !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
	return ensure(printable && len(s) >= least && len(s) <= most,
		"%s %.20q: must be %d to %d printable characters", what, s, least, most)
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
