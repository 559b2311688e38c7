package inventory

import (
	"errors"
	"strings"
	"testing"
)

func TestMessageOfAnotherVersionNamesTheNodeToUpgrade(t *testing.T) {
	beat := func(data string) error { _, err := decodeBeat("web1", []byte(data)); return err }
	facts := func(data string) error { _, err := decodeFacts("web1", []byte(data)); return err }
	for _, c := range []struct {
		err     error
		version int
		want    string
	}{
		{beat(`{"v":1,"node":"web1","conn":7}`), 1, "heartbeat of web1: message version 1, ... upgrade kicker on web1"},
		{facts(`{"v":1,"node":"web1","facts":[]}`), 1, "facts of web1: message version 1, ... upgrade kicker on web1"},
		{beat(`{"v":3,"node":"another"}`), 3, "heartbeat of web1: message version 3, ... upgrade this program"},
	} {
		var version *VersionError
		want := strings.Replace(c.want, "...", "this program speaks version 2:", 1)
		if !errors.As(c.err, &version) || *version != (VersionError{"web1", c.version}) || c.err.Error() != want {
			t.Errorf("error %q, want a VersionError of web1: %q", c.err, want)
		}
	}
}

func TestOnlyANodeHasAnotherVersion(t *testing.T) {
	_, badName := decodeBeat("Web1", []byte(`{"v":1}`))
	_, noVersion := decodeBeat("web1", []byte(`{}`))
	_, noJSON := decodeBeat("web1", []byte(`{"v":1`))
	_, controller := decodeBeacon([]byte(`{"v":1}`))
	for _, err := range []error{badName, noVersion, noJSON, controller} {
		if _, ok := errors.AsType[*VersionError](err); ok || err == nil {
			t.Errorf("%v is a VersionError, want another error", err)
		}
	}
}

func TestWrongJSONTypeIsNamedInJSONTerms(t *testing.T) {
	_, err := decodeBeat("web1", []byte(`{"v":2,"conn":{"client":"x"}}`))
	if want := `unexpected JSON string at key "conn.client"`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
}
