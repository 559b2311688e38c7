package daemon

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kicker/inventory"
	"kicker/kick"
)

// messages are the types that docs/reference/messages.md describes.
var messages = []any{
	inventory.Beat{}, inventory.Conn{}, inventory.FactsMessage{}, inventory.Beacon{}, inventory.ReportRequest{},
	inventory.Order{}, inventory.ProbeReply{}, inventory.LeaveStatus{}, inventory.Blocker{}, inventory.Wait{},
	kick.Status{}, kick.ActionStatus{}, kick.LastRun{}, kick.Running{}, kick.Result{}, kick.Reply{},
	kick.Kick{}, kick.Membership{}, kick.Revision{}, kick.Member{}, kick.Part{}, kick.RosterRequest{},
	kick.RosterPage{}, kick.MembersFile{},
}

var (
	section = regexp.MustCompile("(?m)^##+ .*: `((?:inventory|kick)\\.\\w+)`$")
	row     = regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (?:number|string|boolean|object|list)[^|]*?(, optional)? \\|")
	example = regexp.MustCompile("(?s)```json\n(.*?)\n```")
)

func TestReferenceDescribesEveryKeyOfEveryMessage(t *testing.T) {
	sections := messageSections(t)
	for _, m := range messages {
		typ := reflect.TypeOf(m)
		text, ok := sections[typ.String()]
		if !ok {
			t.Errorf("messages.md: no section for %s", typ)
			continue
		}
		delete(sections, typ.String())
		var described []string
		for _, match := range row.FindAllStringSubmatch(text, -1) {
			described = append(described, match[1]+match[2])
		}
		if diff := cmp.Diff(jsonKeys(typ), described); diff != "" {
			t.Errorf("messages.md: keys of %s (-code +reference):\n%s", typ, diff)
		}
	}
	for name := range sections {
		t.Errorf("messages.md: section for %s, which is not a message", name)
	}
}

func TestReferenceExamplesAreMessages(t *testing.T) {
	sections := messageSections(t)
	for _, m := range messages {
		typ := reflect.TypeOf(m)
		found := example.FindStringSubmatch(sections[typ.String()])
		if found == nil {
			t.Errorf("messages.md: no example of %s", typ)
			continue
		}
		decoded := reflect.New(typ)
		dec := json.NewDecoder(strings.NewReader(found[1]))
		dec.DisallowUnknownFields()
		if err := dec.Decode(decoded.Interface()); err != nil {
			t.Errorf("messages.md: example of %s: %v", typ, err)
			continue
		}
		encoded, err := json.Marshal(decoded.Interface())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(indent(t, encoded), indent(t, []byte(found[1]))); diff != "" {
			t.Errorf("messages.md: example of %s (-as it is sent +in the reference):\n%s", typ, diff)
		}
	}
}

// messageSections is the sections of messages.md, by the type that each describes.
func messageSections(t *testing.T) map[string]string {
	t.Helper()
	doc, err := os.ReadFile("../../../../docs/reference/messages.md")
	if err != nil {
		t.Fatal(err)
	}
	heads := section.FindAllSubmatchIndex(doc, -1)
	sections := map[string]string{}
	for i, head := range heads {
		end := len(doc)
		if i+1 < len(heads) {
			end = heads[i+1][0]
		}
		sections[string(doc[head[2]:head[3]])] = string(doc[head[1]:end])
	}
	return sections
}

// jsonKeys are a struct's keys in JSON, in their order. A key that can be left out has ", optional" after it.
func jsonKeys(typ reflect.Type) []string {
	var keys []string
	for i := range typ.NumField() {
		key, options, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		if options == "omitempty" {
			key += ", optional"
		}
		keys = append(keys, key)
	}
	return keys
}

func indent(t *testing.T, text []byte) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", " "); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
