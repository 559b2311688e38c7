package controller

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// wholeState is everything in a controller, as text: every field of every struct that can be reached from it, whatever
// its name. What functions, channels and locks hold is left out.
func wholeState(c *Controller) string {
	var lines []string
	seen := map[uintptr]bool{}
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		switch v.Kind() {
		case reflect.Pointer:
			if v.IsNil() || seen[v.Pointer()] {
				return
			}
			seen[v.Pointer()] = true
			walk(path, v.Elem())
		case reflect.Interface:
			if !v.IsNil() {
				walk(path, v.Elem())
			}
		case reflect.Struct:
			for i := range v.NumField() {
				walk(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
		case reflect.Map:
			keys := v.MapKeys()
			slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(name(a), name(b)) })
			for _, k := range keys {
				walk(path+"["+name(k)+"]", v.MapIndex(k))
			}
		case reflect.Slice, reflect.Array:
			for i := range v.Len() {
				walk(fmt.Sprintf("%s[%d]", path, i), v.Index(i))
			}
		case reflect.Func, reflect.Chan, reflect.UnsafePointer:
		default:
			lines = append(lines, path+" = "+name(v))
		}
	}
	walk("", reflect.ValueOf(c).Elem())
	slices.Sort(lines) // a pointer is followed where it is met first
	return strings.Join(lines, "\n")
}

// name is a value that is no pointer, or of a pointer the role or action that it points to.
func name(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Pointer:
		return name(v.Elem())
	case reflect.Struct:
		var parts []string
		for i := range v.NumField() {
			if k := v.Field(i).Kind(); k == reflect.String || k >= reflect.Int && k <= reflect.Uint64 {
				parts = append(parts, name(v.Field(i)))
			}
		}
		return strings.Join(parts, "/")
	case reflect.String:
		return fmt.Sprintf("%q", v.String())
	case reflect.Bool:
		return fmt.Sprint(v.Bool())
	case reflect.Int, reflect.Int64, reflect.Int32, reflect.Int8, reflect.Int16:
		return fmt.Sprint(v.Int())
	case reflect.Uint, reflect.Uint64, reflect.Uint32, reflect.Uint8, reflect.Uint16, reflect.Uintptr:
		return fmt.Sprint(v.Uint())
	case reflect.Float64, reflect.Float32:
		return fmt.Sprint(v.Float())
	}
	return v.String()
}

// Case E37: a plan every 2 s kept a hold alive that should have ended.
func TestPlanTouchesNothing(t *testing.T) {
	held := 0
	rapid.Check(t, func(t *rapid.T) {
		w := newSmallWorld(t)
		w.says("n0")
		w.passes(10e9)
		for range 3 {
			w.lives()
			for _, r := range w.table.Roles() {
				if r.Held(false) != nil {
					held++
				}
			}
			w.fleet.all() // caches that are made by looking
			w.viewRoles()
			before := wholeState(w.Controller)
			if _, err := w.dryRun(w.config("planned"), w.now); err != nil && w.listening.sync.Open {
				t.Fatal(err)
			}
			if after := wholeState(w.Controller); before != after {
				t.Fatalf("the plan changed (-before +after):\n%s", cmp.Diff(strings.Split(before, "\n"), strings.Split(after, "\n")))
			}
		}
	})
	if held == 0 {
		t.Error("nothing was ever held: the test shows less than it says")
	}
}
