package inventory

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"kicker/inventory/query"
)

// Facts are what a node reports about itself: JSON values by name, nested where the source nests them.
type Facts map[string]any

// Digest identifies facts: equal facts have equal digests.
func (f Facts) Digest() string {
	sum := sha256.Sum256(encode(f)) // map keys are sorted
	return hex.EncodeToString(sum[:12])
}

// machineFacts is how many bytes of a FactsMessage are left for the facts of the machine and the sender's names.
const machineFacts = 64 << 10

// Check reports why a node cannot announce these facts beside those of its machine.
func (f Facts) Check() error {
	if err := f.checkSendable(); err != nil {
		return err
	}
	if size, most := len(encode(f)), maxFacts-machineFacts; size > most {
		return fmt.Errorf("%d bytes of facts as JSON, at most %d are allowed: leave out facts that nothing uses", size, most)
	}
	return nil
}

// checkSendable names a fact that is not the same after it was encoded and decoded. The controller would compute
// another digest of such facts, and ask for them without end.
func (f Facts) checkSendable() error {
	for _, name := range slices.Sorted(maps.Keys(f)) {
		err := checkUTF8(name)
		if err == nil {
			err = eachText(f[name], checkUTF8)
		}
		if err != nil {
			return fmt.Errorf("fact %.40q: %w", name, err)
		}
		data, err := json.Marshal(map[string]any{"facts": Facts{name: f[name]}}) // nested as deeply as in a message
		var sent struct{ Facts Facts }
		if err != nil || json.Unmarshal(data, &sent) != nil || sent.Facts.Digest() != (Facts{name: f[name]}).Digest() {
			return fmt.Errorf("fact %s: JSON cannot carry this value unchanged: make it a text", name)
		}
	}
	return nil
}

// Roles returns the roles that the fact "role" names: one as a string, or several as a list.
func (f Facts) Roles() []string {
	role, _ := query.Lookup(f, "role")
	list, several := role.([]any)
	if !several {
		list = []any{role}
	}
	var roles []string
	for _, r := range list {
		if s, ok := r.(string); ok {
			roles = append(roles, s)
		}
	}
	return roles
}

// ParseFact parses PATH=VALUE. The value stays a string, as in Facter; selectors compare it as a number where it looks
// like one.
func ParseFact(s string) (path, value string, err error) {
	path, value, ok := strings.Cut(s, "=")
	path = strings.TrimSpace(path)
	if !ok {
		return "", "", fmt.Errorf("fact %q: want NAME=VALUE, as in site.room=5", s)
	}
	if err := query.CheckPath(path); err != nil {
		return "", "", fmt.Errorf("fact %q: %w", s, err)
	}
	return path, value, nil
}

// Set sets the fact at path, nested at the dots, to a JSON value. It replaces a value at path. It is an error if there
// are facts below path, or a value above it.
func (f Facts) Set(path string, value any) error {
	level := map[string]any(f)
	keys := strings.Split(path, ".")
	last := len(keys) - 1
	for i, key := range keys[:last] {
		if level[key] == nil {
			level[key] = map[string]any{}
		}
		inner, nested := level[key].(map[string]any)
		if !nested {
			const text = "fact %s: there is %s=%v already, so there can be nothing below %[2]s"
			return fmt.Errorf(text, path, strings.Join(keys[:i+1], "."), level[key])
		}
		level = inner
	}
	if inner, nested := level[keys[last]].(map[string]any); nested && len(inner) > 0 {
		below := slices.Min(slices.Collect(maps.Keys(inner)))
		return fmt.Errorf("fact %s: there is %s.%s already, so %s cannot have a value itself", path, path, below, path)
	}
	level[keys[last]] = value
	return nil
}

// SetRoles sets the fact "role": a string for one role, a list for several, nothing for none.
func (f Facts) SetRoles(roles []string) {
	switch len(roles) {
	case 0:
	case 1:
		f["role"] = roles[0]
	default:
		var list []any
		for _, r := range roles {
			list = append(list, r)
		}
		f["role"] = list
	}
}
