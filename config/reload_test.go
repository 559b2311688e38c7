package config

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNeedRestartListsWhatAReloadCannotChange(t *testing.T) {
	for _, c := range []struct {
		is   string
		want []string
	}{
		{"", nil},
		{"roles: [{name: web}]\nsettle: 7s\nsettle_min: 1s\nsettle_max: 2m\ngone_after: 20s\nin_flight: 3\nrun_at_most: 2h\nlimits: [{action: a, in_flight: 2}]", nil},
		{"guard: shadow\nmode: observe\nbackoff: {initial: 1s, max: 2s}", nil},
		{"agent: {roles: [web]}\napi: {url: 'http://127.0.0.1:1'}", nil},
		{"cluster: other", []string{"cluster"}},
		{"bus: {listen: '127.0.0.1:1'}\napi: {listen: '127.0.0.1:2'}\nlog: {level: debug}",
			[]string{"log.level", "bus.listen", "api.listen"}},
		{"standby: true\nbus: {url: 'nats://127.0.0.1'}\nstate_dir: /a\ntoken_file: /b",
			[]string{"standby", "state_dir", "token_file", "bus.url"}},
		{"bus: {url: 'nats://a', system_url: 'nats://u:p@a'}", []string{"bus.url", "bus.system_url"}},
	} {
		was, err := Parse(nil, Options{File: "old.yaml"})
		if err != nil {
			t.Fatal(err)
		}
		is, err := Parse([]byte(c.is), Options{File: "new.yaml"})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, NeedRestart(was, is)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.is, diff)
		}
	}
}

// A setting is either in controller.Config, and a reload applies it, or NeedRestart lists it.
func TestEverySettingReloadsOrNeedsARestart(t *testing.T) {
	for _, s := range settings {
		if s.env == "" || strings.HasPrefix(s.key, "agent.") {
			continue
		}
		was, is := Default(), Default()
		at := reflect.ValueOf(&is).Elem().FieldByIndex(s.index)
		switch at.Kind() {
		case reflect.String:
			at.SetString("another")
		case reflect.Bool:
			at.SetBool(!at.Bool())
		case reflect.Int, reflect.Int64:
			at.SetInt(at.Int() + int64(time.Second))
		default:
			t.Errorf("%s: this test cannot change a %s", s.key, at.Kind())
		}
		restart := len(NeedRestart(was, is)) == 1
		inLoop := !reflect.DeepEqual(was.Config, is.Config)
		if restart == inLoop && s.key != "cluster" && s.key != "standby" && s.key != "api.url" {
			t.Errorf("%s: needs a restart: %t, is in controller.Config: %t", s.key, restart, inLoop)
		}
	}
}

func TestParseNamesTheFileAndKeepsTheEnvironment(t *testing.T) {
	t.Setenv("KICKER_SETTLE", "9s")
	c, err := Parse([]byte("settle: 1s"), Options{File: "new.yaml"})
	if err != nil || c.Settle != 9*time.Second {
		t.Errorf("settle is %s, %v; want the value of the environment", c.Settle, err)
	}
	_, err = Parse([]byte("cluster: main\ngone_after: 1s"), Options{File: "new.yaml"})
	var problems Problems
	if !errors.As(err, &problems) || !strings.HasPrefix(err.Error(), "new.yaml:2: gone_after: ") {
		t.Errorf("the error is %v, want new.yaml:2", err)
	}
}
