package config

import (
	"io"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"kicker/controller/bus"
)

// Show writes the settings that hold, as a file that Load would read, each with where it comes from. Secrets in URLs are
// left out.
func Show(o Options, w io.Writer) error {
	c, src, err := load(o)
	if err != nil {
		return err
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(src.node("", reflect.ValueOf(c))); err != nil {
		return err
	}
	return enc.Close()
}

// node is how v is written, which is at path.
func (src *sources) node(path string, v reflect.Value) *yaml.Node {
	if d, ok := v.Interface().(time.Duration); ok {
		return scalar(short(d))
	}
	switch v.Kind() {
	case reflect.String:
		return scalar(bus.Redacted(v.String()))
	case reflect.Slice:
		list := &yaml.Node{Kind: yaml.SequenceNode}
		if !isEntries(v.Type()) || v.Len() == 0 {
			list.Style = yaml.FlowStyle
		}
		for i := range v.Len() {
			list.Content = append(list.Content, src.node(path+"[]", v.Index(i)))
		}
		return list
	case reflect.Struct:
		return src.mapping(path, v)
	}
	return scalar(v.Interface())
}

func (src *sources) mapping(path string, v reflect.Value) *yaml.Node {
	m := &yaml.Node{Kind: yaml.MappingNode}
	inEntry := strings.Contains(path, "[]")
	for _, f := range fields(v.Type()) {
		value := v.FieldByIndex(f.index)
		if inEntry && value.IsZero() {
			continue // it follows something else
		}
		at := join(path, f.name)
		key, n := scalar(f.name), src.node(at, value)
		if !inEntry && f.typ.Kind() != reflect.Struct {
			where, _ := src.of(at)
			if where == "" {
				where = "default"
			}
			if n.Kind == yaml.SequenceNode && n.Style != yaml.FlowStyle {
				key.LineComment = where
			} else {
				n.LineComment = where
			}
		}
		m.Content = append(m.Content, key, n)
	}
	return m
}

func scalar(v any) *yaml.Node {
	var n yaml.Node
	_ = n.Encode(v) // fails for what is no text, number or bool
	return &n
}

// short is how a person writes d.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
