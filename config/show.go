package config

import (
	"cmp"
	"fmt"
	"io"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"

	"kicker/controller/bus"
)

// Show writes the settings as a file that Load can read, each with its source in a comment. It hides the users and
// passwords in URLs.
func Show(o Options, w io.Writer) error {
	r, err := load(o)
	if err != nil {
		return err
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(r.node("", reflect.ValueOf(r.config))); err != nil {
		return err
	}
	return enc.Close()
}

// node is the YAML of the value at a path.
func (r *reader) node(path string, v reflect.Value) *yaml.Node {
	var n yaml.Node // Encode cannot fail for text, numbers and bools
	switch {
	case v.Type() == durationType:
		_ = n.Encode(short(v.Interface()))
	case v.Kind() == reflect.String:
		_ = n.Encode(bus.Redacted(v.String()))
	case v.Kind() == reflect.Slice:
		n.Kind = yaml.SequenceNode
		if !isEntries(v.Type()) || v.Len() == 0 {
			n.Style = yaml.FlowStyle
		}
		for i := range v.Len() {
			n.Content = append(n.Content, r.node(path+"[]", v.Index(i)))
		}
	case v.Kind() == reflect.Struct:
		n.Kind = yaml.MappingNode
		for _, f := range fields(v.Type()) {
			n.Content = append(n.Content, r.pair(path, keyOf(f), v.FieldByIndex(f.Index))...)
		}
	default:
		_ = n.Encode(v.Interface())
	}
	return &n
}

// pair is a key and its value, with a comment unless it is a group or in an entry of a list.
func (r *reader) pair(parent, name string, v reflect.Value) []*yaml.Node {
	inEntry := strings.Contains(parent, "[]")
	if inEntry && v.IsZero() {
		return nil // it follows from another setting
	}
	var key yaml.Node
	key.SetString(name)
	path := join(parent, name)
	n := r.node(path, v)
	if !inEntry && n.Kind != yaml.MappingNode {
		commented := n
		if n.Kind == yaml.SequenceNode && n.Style != yaml.FlowStyle {
			commented = &key
		}
		where, _ := r.of(path)
		commented.LineComment = cmp.Or(where, "default")
	}
	return []*yaml.Node{&key, n}
}

// short is a number or a duration, exactly, as people write it: 1h, not 1h0m0s.
func short(v any) string { return strings.NewReplacer("h0m0s", "h", "m0s", "m").Replace(fmt.Sprint(v)) }
