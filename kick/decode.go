package kick

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Limits of what is taken from the bus.
const (
	MaxMessage = 1 << 20  // bytes of a kick or a part
	MaxAnswer  = 64 << 10 // bytes of a reply, a result or a status
	MaxNeeds   = 64       // roles that an action depends on
)

// MaxEpoch is the year 2200 in Unix milliseconds: nodes refuse an epoch beyond it, which would lock every later controller out.
var MaxEpoch = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()

// decodeKick reads a kick that came for the node that the subject names. Members are not verified here.
func decodeKick(node string, data []byte) (Kick, error) {
	var k Kick
	if err := unmarshal(data, MaxMessage, &k); err != nil {
		return k, err
	}
	switch {
	case k.V != Version:
		return k, fmt.Errorf("version %d, want %d", k.V, Version)
	case k.Node != node:
		return k, fmt.Errorf("it is for node %q", k.Node)
	case k.Epoch <= 0 || k.Epoch > MaxEpoch:
		return k, fmt.Errorf("epoch %d: out of range", k.Epoch)
	case k.Controller == "" || len(k.Controller) > 253 || !printable(k.Controller):
		return k, fmt.Errorf("controller %.20q: must be 1 to 253 printable characters", k.Controller)
	case len(k.Reason) > 4096 || !printable(k.Reason):
		return k, errors.New("reason: must be at most 4096 printable characters")
	case len(k.Needs) > MaxNeeds:
		return k, fmt.Errorf("%d needs, more than %d", len(k.Needs), MaxNeeds)
	}
	if err := checkRunID(k.ID); err != nil {
		return k, err
	}
	if err := checkActionName(k.Action); err != nil {
		return k, err
	}
	roles := map[string]bool{}
	for _, need := range k.Needs {
		if err := checkRevision(need.Role, need.Revision); err != nil {
			return k, err
		}
		if need.Revision.Epoch > k.Epoch {
			return k, fmt.Errorf("role %q: its revision is of epoch %d, after the kick's own", need.Role, need.Revision.Epoch)
		}
		if roles[need.Role] {
			return k, fmt.Errorf("role %q: needed twice", need.Role)
		}
		roles[need.Role] = true
	}
	return k, nil
}

func decodeReply(data []byte) (Reply, error) {
	var r Reply
	if err := unmarshal(data, MaxAnswer, &r); err != nil {
		return r, err
	}
	switch {
	case r.V != Version:
		return r, fmt.Errorf("version %d, want %d", r.V, Version)
	case r.Answer == "":
		return r, errors.New("no answer in it")
	case r.Deadline < 0 || r.Deadline > (MaxTimeout+MaxGrace+slack).Milliseconds():
		return r, fmt.Errorf("deadline_ms %d: out of range", r.Deadline)
	case r.Answer == Accepted && checkRunID(r.Run) != nil:
		return r, checkRunID(r.Run)
	}
	return r, nil
}

// decodeResult reads a result that came from the node that the subject names.
func decodeResult(node string, data []byte) (Result, error) {
	var r Result
	if err := unmarshal(data, MaxAnswer, &r); err != nil {
		return r, err
	}
	switch {
	case r.V != Version:
		return r, fmt.Errorf("version %d, want %d", r.V, Version)
	case r.Node != node:
		return r, fmt.Errorf("it names node %q", r.Node)
	}
	if err := checkName(r.Node); err != nil {
		return r, err
	}
	if err := checkActionName(r.Action); err != nil {
		return r, err
	}
	if err := checkLast(LastRun{Run: r.Run, Outcome: r.Outcome, Duration: r.Duration}); err != nil {
		return r, err
	}
	return r, checkApplied(r.Applied)
}

// ParseStatus reads what a heartbeat says of the node's actions. Nothing at all is a node without actions.
func ParseStatus(data json.RawMessage) (Status, error) {
	var s Status
	if len(data) == 0 {
		return s, nil
	}
	if err := unmarshal(data, MaxAnswer, &s); err != nil {
		return Status{}, fmt.Errorf("status: %w", err)
	}
	if err := s.check(); err != nil {
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
	case len(s.Actions) > MaxActions:
		return fmt.Errorf("%d actions, more than %d", len(s.Actions), MaxActions)
	}
	names := map[string]bool{}
	for _, a := range s.Actions {
		if err := a.check(); err != nil {
			return err
		}
		if names[a.Name] {
			return fmt.Errorf("action %q: it is there twice", a.Name)
		}
		names[a.Name] = true
	}
	if s.Running == nil {
		return nil
	}
	if err := checkRunID(s.Running.Run); err != nil {
		return err
	}
	return checkActionName(s.Running.Action)
}

func (a ActionStatus) check() error {
	if err := checkActionName(a.Name); err != nil {
		return err
	}
	if len(a.DependsOn) > MaxNeeds {
		return fmt.Errorf("action %q depends on %d roles, more than %d", a.Name, len(a.DependsOn), MaxNeeds)
	}
	for _, role := range a.DependsOn {
		if err := checkRole(role); err != nil {
			return fmt.Errorf("action %q: %w", a.Name, err)
		}
	}
	if err := checkApplied(a.Applied); err != nil {
		return fmt.Errorf("action %q: %w", a.Name, err)
	}
	if a.Last == nil {
		return nil
	}
	if err := checkLast(*a.Last); err != nil {
		return fmt.Errorf("action %q: %w", a.Name, err)
	}
	return nil
}

func checkLast(l LastRun) error {
	switch {
	case l.Outcome == "" || len(l.Outcome) > 32 || !printable(string(l.Outcome)):
		return fmt.Errorf("run %.20q: outcome %.20q", l.Run, l.Outcome)
	case l.Duration < 0 || l.Failures < 0:
		return fmt.Errorf("run %.20q: duration_ms %d, failures %d: out of range", l.Run, l.Duration, l.Failures)
	}
	return checkRunID(l.Run)
}

func checkApplied(applied map[string]Revision) error {
	if len(applied) > MaxNeeds {
		return fmt.Errorf("%d roles applied, more than %d", len(applied), MaxNeeds)
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
	if r.Hash == "" || len(r.Hash) > 64 || !madeOf(r.Hash, wordChars) {
		return fmt.Errorf("role %q: hash %.20q", role, r.Hash)
	}
	return nil
}

// checkName reports why name can't be a node's: dot-separated tokens of [a-z0-9_-], so that it stands at the end of a subject.
func checkName(name string) error {
	if name == "" || len(name) > 253 || name[0] == '_' {
		return fmt.Errorf("node %.20q: must have 1 to 253 characters and not start with _", name)
	}
	for token := range strings.SplitSeq(name, ".") {
		if token == "" || !madeOf(token, wordChars) {
			return fmt.Errorf("node %.20q: only a-z 0-9 _ - are allowed, and dots between", name)
		}
	}
	return nil
}

const wordChars = "abcdefghijklmnopqrstuvwxyz0123456789_-"

func checkActionName(name string) error {
	if name == "" || len(name) > 64 || !madeOf(name, wordChars) {
		return fmt.Errorf("action %.20q: must be 1 to 64 characters of a-z 0-9 _ -", name)
	}
	return nil
}

// checkRunID keeps an id to what is safe as the name of a directory.
func checkRunID(id string) error {
	if id == "" || len(id) > 64 || !madeOf(id, wordChars+"ABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		return fmt.Errorf("run %.20q: must be 1 to 64 characters of a-z A-Z 0-9 _ -", id)
	}
	return nil
}

// checkRole allows a role's name or a selector.
func checkRole(role string) error {
	if role == "" || len(role) > 256 || !printable(role) {
		return fmt.Errorf("role %.20q: must be 1 to 256 printable characters", role)
	}
	return nil
}

func madeOf(s, chars string) bool { return strings.Trim(s, chars) == "" }

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func unmarshal(data []byte, most int, v any) error {
	if len(data) > most {
		return fmt.Errorf("%d bytes, more than %d", len(data), most)
	}
	return json.Unmarshal(data, v)
}
