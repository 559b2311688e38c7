package inventory

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestMemberFactHasOneForm(t *testing.T) {
	for _, c := range []struct {
		path        string
		value, want any
	}{
		{"ipaddress", "10.0.0.1", "10.0.0.1"},
		{"ipaddress", "::ffff:10.0.0.1", "10.0.0.1"},
		{"ipaddress", "2001:DB8:0::1", "2001:db8::1"},
		{"ipaddress", "127.0.0.1", "127.0.0.1"},
		{"ipaddress", "::1", "::1"},
		{"port", "8080", "8080"},
		{"port", 8080.0, "8080"},
		{"port", 8080, "8080"},
		{"port", 1.0, "1"},
		{"port", "65535", "65535"},
		{"site", "", ""},
		{"site", "München, 5\u00a0km", "München, 5\u00a0km"},
		{"weight", 0.5, 0.5},
		{"ssl", true, true},
		{"none", nil, nil},
		{"motd", strings.Repeat("ä", 512), strings.Repeat("ä", 512)},
		{"disks", []any{"sda", map[string]any{"size": 5.0}}, []any{"sda", map[string]any{"size": 5.0}}},
		{"net.ipaddress", "eth0 has none", "eth0 has none"}, // only the path ipaddress itself is typed
	} {
		got, err := MemberFact(c.path, c.value)
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("MemberFact(%s, %v) = %v, %v, want %v", c.path, c.value, got, err, c.want)
		}
	}
}

func TestMemberFactThatBreaksAFileIsAnError(t *testing.T) {
	want := func(port string) string { return "fact port: " + port + "want a number from 1 to 65535" }
	long := make([]any, 5)
	for i := range long {
		long[i] = strings.Repeat("x", 1000)
	}
	for _, c := range []struct {
		path  string
		value any
		want  string
	}{
		{"port", "", want(`"": `)},
		{"port", " 8080", want(`" 8080": `)},
		{"port", "8080 ", want(`"8080 ": `)},
		{"port", "+8080", want(`"+8080": `)},
		{"port", "-1", want(`"-1": `)},
		{"port", "0x1f", want(`"0x1f": `)},
		{"port", "08080", want(`"08080": `)},
		{"port", "8080.0", want(`"8080.0": `)},
		{"port", "0", want(`"0": `)},
		{"port", "65536", want(`"65536": `)},
		{"port", "80,ipaddress=10.0.0.1", want(`"80,ipaddress=10.0.0.1": `)},
		{"port", 8080.5, want("8080.5: ")},
		{"port", 0.0, want("0: ")},
		{"port", 1e300, want("1e+300: ")},
		{"port", -80, want("-80: ")},
		{"port", nil, want("")},
		{"port", []any{"80"}, want("")},
		{"port", "80\n    server evil 203.0.113.6:80", want("")},
		{"ipaddress", "", `fact ipaddress: "": want an IP address`},
		{"ipaddress", "not-an-ip", `fact ipaddress: "not-an-ip": want an IP address`},
		{"ipaddress", " 10.0.0.1", `fact ipaddress: " 10.0.0.1": want an IP address`},
		{"ipaddress", "10.0.0.1:80", `fact ipaddress: "10.0.0.1:80": want an IP address`},
		{"ipaddress", "10.0.0.0/8", `fact ipaddress: "10.0.0.0/8": want an IP address`},
		{"ipaddress", "010.0.0.1", `fact ipaddress: "010.0.0.1": want an IP address`},
		{"ipaddress", 167772161.0, "fact ipaddress: 1.67772161e+08: want an IP address"},
		{"ipaddress", "2001:db8::1%eth0", `fact ipaddress: "2001:db8::1%eth0": want an IP address without a zone`},
		{"ipaddress", "0.0.0.0", `fact ipaddress: "0.0.0.0": want the address of one node, not the unspecified address`},
		{"ipaddress", "::ffff:0.0.0.0",
			`fact ipaddress: "::ffff:0.0.0.0": want the address of one node, not the unspecified address`},
		{"ipaddress", "239.1.1.1", `fact ipaddress: "239.1.1.1": want the address of one node, not a multicast address`},
		{"ipaddress", "ff02::1", `fact ipaddress: "ff02::1": want the address of one node, not a multicast address`},
		{"ipaddress", "169.254.1.1",
			`fact ipaddress: "169.254.1.1": want an address that other networks reach, not a link-local one`},
		{"ipaddress", "fe80::1",
			`fact ipaddress: "fe80::1": want an address that other networks reach, not a link-local one`},
		{"site", "a\nb", "fact site: it has the control character U+000A: remove it"},
		{"site", "a\x7f", "fact site: it has the control character U+007F: remove it"},
		{"site", "a\u0085b", "fact site: it has the control character U+0085: remove it"},
		{"site", "a\u2028b", "fact site: it has the line separator U+2028: remove it"},
		{"site", "a\u2029b", "fact site: it has the line separator U+2029: remove it"},
		{"site", "M\xfcnchen", "fact site: not valid UTF-8: write it in UTF-8"},
		{"site", strings.Repeat("x", 1025), "fact site: text of 1025 bytes, at most 1024 are allowed"},
		{"disks", []any{"a", map[string]any{"x": []any{"b\r"}}},
			"fact disks: it has the control character U+000D: remove it"},
		{"disks", map[string]any{"a": map[string]any{"b\n": 1.0}},
			"fact disks: it has the control character U+000A: remove it"},
		{"disks", long, "fact disks: 5016 bytes as JSON, at most 4096 are allowed"},
	} {
		got, err := MemberFact(c.path, c.value)
		if err == nil || got != nil || err.Error() != c.want {
			t.Errorf("MemberFact(%s, %q) = %v, %v, want the error\n%s", c.path, c.value, got, err, c.want)
		}
	}
}

// FuzzMemberFact takes any JSON value, or any text if it is not JSON.
func FuzzMemberFact(f *testing.F) {
	for _, s := range []string{`8080`, `"8080"`, `10.0.0.1`, `"::ffff:1.2.3.4"`, `{"a\n":[null,1e400]}`, "M\xfcnchen",
		`[[[["\u0085"]]]]`, `-0`, `"fe80::1%\u001b[0m"`} {
		f.Add("port", s)
		f.Add("ipaddress", s)
		f.Add("site", s)
	}
	f.Fuzz(func(t *testing.T, path, text string) {
		var value any
		if json.Unmarshal([]byte(text), &value) != nil {
			value = text
		}
		form, err := MemberFact(path, value)
		if err != nil {
			if utf8.ValidString(path) && checkText(path) == nil && len(path) < 100 && checkText(err.Error()) != nil {
				t.Errorf("MemberFact(%q, %q): the error %q is not one plain line", path, text, err)
			}
			return
		}
		again, err := MemberFact(path, form)
		if diff := cmp.Diff(form, again); err != nil || diff != "" {
			t.Errorf("MemberFact(%q, %q) = %v; of that again: %v, %v", path, text, form, again, err)
		}
		data, err := json.Marshal(form)
		if err != nil || strings.ContainsAny(string(data), "\n\r\x00") {
			t.Errorf("MemberFact(%q, %q) = %q as JSON, %v", path, text, data, err)
		}
		word, isText := form.(string)
		if typed := path == "port" || path == "ipaddress"; typed && (!isText || len(strings.Fields(word)) != 1) {
			t.Errorf("MemberFact(%q, %q) = %q, want one word", path, text, form)
		}
	})
}

func TestTextFromElsewhereBecomesOnePlainLine(t *testing.T) {
	for text, want := range map[string]string{
		"ready":                  "ready",
		"a\nb\x1b[31mc":          "a b [31mc",
		"M\xfcnchen\r\n":         "M\uFFFDnchen",
		"\u202egnp.exe\u2028":    "gnp.exe",
		strings.Repeat("x", 100): strings.Repeat("x", 72) + "… (28 more bytes)",
		strings.Repeat("ä", 60):  strings.Repeat("ä", 36) + "… (48 more bytes)",
	} {
		got := plain(text, 99)
		if got != want || len(got) > 99 || !utf8.ValidString(got) {
			t.Errorf("plain(%q) = %q, want %q", text, got, want)
		}
	}
}
