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

// messageKind is one of the messages that share a node's kick subject.
type messageKind int

const (
	kickMessage messageKind = iota // or an invalid message
	partMessage
	rosterMessage
)

// kindOf tells the messages apart by a key that only one of them has.
func kindOf(data []byte) messageKind {
	var keys struct {
		PartOf string `json:"part_of"`
		Roster string `json:"roster"`
	}
	switch {
	case len(data) > maxMessage || json.Unmarshal(data, &keys) != nil:
		return kickMessage
	case keys.PartOf != "":
		return partMessage
	case keys.Roster != "" && len(data) <= maxAnswer:
		return rosterMessage
	}
	return kickMessage
}

// decodeKick reads a kick that was sent to a node. It does not check the members against the revisions.
func decodeKick(node string, data []byte) (Kick, error) {
	var k Kick
	if err := decode(data, maxMessage, &k, &k.V); err != nil {
		return k, err
	}
	switch {
	case k.Node != node:
		return k, fmt.Errorf("it is for node %q", k.Node)
	case k.Epoch <= 0 || k.Epoch > MaxEpoch:
		return k, fmt.Errorf("epoch %d: out of range", k.Epoch)
	case k.Controller == "" || len(k.Controller) > 253 || !printable(k.Controller):
		return k, fmt.Errorf("controller %.20q: must be 1 to 253 printable characters", k.Controller)
	case len(k.Reason) > 4096 || !printable(k.Reason):
		return k, errors.New("reason: must be at most 4096 printable characters")
	case len(k.Needs) > maxNeeds:
		return k, fmt.Errorf("%d needs, the limit is %d", len(k.Needs), maxNeeds)
	}
	if err := cmp.Or(checkRunID(k.ID), checkWord("action", k.Action)); err != nil {
		return k, err
	}
	roles := map[string]bool{}
	for _, need := range k.Needs {
		if err := checkRevision(need.Role, need.Revision); err != nil {
			return k, err
		}
		if need.Revision.Epoch > k.Epoch {
			return k, fmt.Errorf("role %q: revision of the later epoch %d", need.Role, need.Revision.Epoch)
		}
		if roles[need.Role] {
			return k, fmt.Errorf("role %q: it is there twice", need.Role)
		}
		roles[need.Role] = true
	}
	return k, nil
}

func decodeReply(data []byte) (Reply, error) {
	var r Reply
	if err := decode(data, maxAnswer, &r, &r.V); err != nil {
		return r, err
	}
	switch {
	case r.Answer == "":
		return r, errors.New("no answer")
	case r.Deadline < 0 || r.Deadline > (maxTimeout+maxGrace+slack).Milliseconds():
		return r, fmt.Errorf("deadline_ms %d: out of range", r.Deadline)
	case r.Answer == Accepted:
		return r, checkRunID(r.Run)
	}
	return r, nil
}

// decodeResult reads a result that a node sent.
func decodeResult(node string, data []byte) (Result, error) {
	var r Result
	if err := decode(data, maxAnswer, &r, &r.V); err != nil {
		return r, err
	}
	if r.Node != node {
		return r, fmt.Errorf("it names node %q", r.Node)
	}
	last := LastRun{Run: r.Run, Outcome: r.Outcome, Duration: r.Duration}
	return r, cmp.Or(checkName(r.Node), checkWord("action", r.Action), checkLast(last), checkApplied(r.Applied))
}

// ParseStatus reads what a heartbeat reports of the node's actions. Empty data is a node without actions.
func ParseStatus(data json.RawMessage) (Status, error) {
	var s Status
	if len(data) == 0 {
		return s, nil
	}
	err := unmarshal(data, maxAnswer, &s)
	if err == nil {
		err = s.check()
	}
	if err != nil {
		return Status{}, fmt.Errorf("status: %w", err)
	}
	return s, nil
}

func (s Status) check() error {
	switch {
	case s.Epoch < 0 || s.Epoch > MaxEpoch:
		return fmt.Errorf("epoch %d: out of range", s.Epoch)
	case len(s.Controller) > 253 || !printable(s.Controller):
		return errors.New("controller: must be at most 253 printable characters")
	case len(s.Actions) > maxActions:
		return fmt.Errorf("%d actions, the limit is %d", len(s.Actions), maxActions)
	}
	names := map[string]bool{}
	for _, a := range s.Actions {
		if err := checkWord("action", a.Name); err != nil {
			return err
		}
		if names[a.Name] {
			return fmt.Errorf("action %q: it is there twice", a.Name)
		}
		names[a.Name] = true
		if err := a.check(); err != nil {
			return fmt.Errorf("action %q: %w", a.Name, err)
		}
	}
	if s.Running == nil {
		return nil
	}
	return cmp.Or(checkRunID(s.Running.Run), checkWord("action", s.Running.Action))
}

// check checks everything but the name.
func (a ActionStatus) check() error {
	if len(a.DependsOn) > maxNeeds {
		return fmt.Errorf("it depends on %d roles, the limit is %d", len(a.DependsOn), maxNeeds)
	}
	for _, role := range a.DependsOn {
		if err := checkRole(role); err != nil {
			return err
		}
	}
	if err := checkApplied(a.Applied); err != nil || a.Last == nil {
		return err
	}
	return checkLast(*a.Last)
}

func checkLast(l LastRun) error {
	switch {
	case l.Outcome == "" || len(l.Outcome) > 32 || !printable(string(l.Outcome)):
		return fmt.Errorf("run %.20q: outcome %.20q: must be 1 to 32 printable characters", l.Run, l.Outcome)
	case l.Duration < 0 || l.Failures < 0:
		return fmt.Errorf("run %.20q: duration_ms %d, failures %d: out of range", l.Run, l.Duration, l.Failures)
	}
	return checkRunID(l.Run)
}

func checkApplied(applied map[string]Revision) error {
	if len(applied) > maxNeeds {
		return fmt.Errorf("%d roles applied, the limit is %d", len(applied), maxNeeds)
	}
	for role, rev := range applied {
		if err := checkRevision(role, rev); err != nil {
			return err
		}
	}
	return nil
}

func checkRevision(role string, r Revision) error {
	if err := checkRole(role); err != nil {
		return err
	}
	if r.Epoch < 0 || r.Epoch > MaxEpoch || r.N < 0 {
		return fmt.Errorf("role %q: revision %d, %d: out of range", role, r.Epoch, r.N)
	}
	if err := checkWord("hash", r.Hash); err != nil {
		return fmt.Errorf("role %q: %w", role, err)
	}
	return nil
}

// checkName accepts what can end a subject. It is inventory.CheckName in short: the packages do not know each other.
func checkName(name string) error {
	parts := "." + name + "."
	if len(name) > 253 || strings.HasPrefix(name, "_") || strings.Contains(parts, "..") || !only(wordChars+".", name) {
		return fmt.Errorf("node %.20q: must be 1 to 253 of a-z 0-9 _ - and single dots, not starting with _", name)
	}
	return nil
}

const wordChars = "abcdefghijklmnopqrstuvwxyz0123456789_-"

func checkWord(what, s string) error {
	if s == "" || len(s) > 64 || !only(wordChars, s) {
		return fmt.Errorf("%s %.20q: must be 1 to 64 characters of a-z 0-9 _ -", what, s)
	}
	return nil
}

// checkRunID accepts what is safe as the name of a directory.
func checkRunID(id string) error {
	if id == "" || len(id) > 64 || !only(wordChars+"ABCDEFGHIJKLMNOPQRSTUVWXYZ", id) {
		return fmt.Errorf("run %.20q: must be 1 to 64 characters of a-z A-Z 0-9 _ -", id)
	}
	return nil
}

// checkRole accepts the name of a role, or a selector.
func checkRole(role string) error {
	if role == "" || len(role) > 256 || !printable(role) {
		return fmt.Errorf("role %.20q: must be 1 to 256 printable characters", role)
	}
	return nil
}

// only reports whether s has no other characters than chars.
func only(chars, s string) bool { return strings.Trim(s, chars) == "" }

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
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
