// Package query is the language that selects nodes by their facts.
//
//	selector = [ term { "," term } ]
//	term     = path ( "=" | "!=" ) value
//	path     = key { "." key }
//	value    = word | '"' text '"' | "'" text "'"
//
// All terms must match; without a term everything does. In quoted text a backslash quotes the next character. Spaces
// around terms, operators and commas are ignored.
package query

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Selector selects nodes by their facts. It is never changed. The zero value matches all.
type Selector struct {
	terms []term // sorted, without duplicates
}

// term compares one fact with a value.
type term struct {
	path   string
	op     string // "=" or "!="
	value  string
	number float64 // of value, if it looks like one
	isNum  bool
}

// Matches reports whether facts, values as encoding/json decodes them, satisfy every term.
//
// A list equals a value if any of its elements does; != is the opposite of =. An absent or null fact satisfies neither.
// If both sides look like numbers they are compared as numbers, so 8080 equals 8080.0; otherwise as strings, a number
// or bool in its JSON form.
func (s Selector) Matches(facts map[string]any) bool {
	for i := range s.terms {
		if !s.terms[i].matches(facts) {
			return false
		}
	}
	return true
}

// Equal returns the selector of the one term path=value.
func Equal(path, value string) Selector { return Selector{[]term{newTerm(path, "=", value)}} }

// And returns the selector that matches what both s and o match.
func (s Selector) And(o Selector) Selector { return newSelector(slices.Concat(s.terms, o.terms)) }

// String returns the canonical form, which Parse accepts. Selectors with equal forms match the same facts.
func (s Selector) String() string {
	var terms []string
	for _, t := range s.terms {
		terms = append(terms, t.path+t.op+quote(t.value))
	}
	return strings.Join(terms, ",")
}

// Paths returns the paths of the facts that s compares, sorted.
func (s Selector) Paths() []string {
	var paths []string
	for _, t := range s.terms {
		paths = append(paths, t.path)
	}
	return slices.Compact(paths)
}

// Lookup returns the fact at a dot-separated path. Keys may contain dots: at each level the longest one is tried first.
func Lookup(facts map[string]any, path string) (value any, found bool) {
	if value, found = facts[path]; found {
		return value, true
	}
	for i := len(path) - 1; i > 0; i-- {
		if path[i] != '.' {
			continue
		}
		if inner, ok := facts[path[:i]].(map[string]any); ok {
			if value, found = Lookup(inner, path[i+1:]); found {
				return value, true
			}
		}
	}
	return nil, false
}

func newSelector(terms []term) Selector {
	slices.SortFunc(terms, func(a, b term) int {
		return cmp.Or(strings.Compare(a.path, b.path), strings.Compare(a.op, b.op), strings.Compare(a.value, b.value))
	})
	return Selector{slices.Compact(terms)}
}

func newTerm(path, op, value string) term {
	n, ok := number(value)
	return term{path: path, op: op, value: value, number: n, isNum: ok}
}

func (t *term) matches(facts map[string]any) bool {
	fact, _ := Lookup(facts, t.path)
	return fact != nil && t.equals(fact) == (t.op == "=")
}

func (t *term) equals(fact any) bool {
	switch f := fact.(type) {
	case string:
		if f == t.value || !t.isNum {
			return f == t.value
		}
		n, ok := number(f)
		return ok && n == t.number
	case float64:
		if t.isNum {
			return f == t.number
		}
		var buf [32]byte
		return string(strconv.AppendFloat(buf[:0], f, 'f', -1, 64)) == t.value
	case bool:
		return strconv.FormatBool(f) == t.value
	case []any:
		return slices.ContainsFunc(f, t.equals)
	}
	return false
}

// number parses s if it looks like a decimal number. More than 15 digits do not: they are a serial number rather than
// an amount, and a float64 would make neighbours equal.
func number(s string) (float64, bool) {
	digits := 0
	for i := range len(s) {
		switch c := s[i]; {
		case '0' <= c && c <= '9':
			digits++
		case c == '.' || c == '-' || c == '+' || c == 'e' || c == 'E': // ParseFloat checks their places
		default:
			return 0, false // this includes "Inf", "NaN" and hexadecimals
		}
	}
	if digits == 0 || digits > 15 {
		return 0, false
	}
	n, err := strconv.ParseFloat(s, 64)
	return n, err == nil
}
