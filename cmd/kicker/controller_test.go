package main

import (
	"testing"

	"kicker/config"
	"kicker/controller"
)

func TestShadowIsTheGuardsSettingAsASwitch(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("KICKER_GUARD", "")
	for _, test := range []struct {
		args []string
		env  string
		want string
	}{
		{nil, "", controller.GuardOn},
		{[]string{"--shadow"}, "", controller.GuardShadow},
		{nil, "shadow", controller.GuardShadow},
		{[]string{"--shadow=false"}, "shadow", controller.GuardOn},
	} {
		t.Setenv("KICKER_GUARD", test.env)
		cmd := controllerCommand()
		if err := cmd.ParseFlags(test.args); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(configOptions(cmd))
		if err != nil || cfg.Guard != test.want {
			t.Errorf("controller %v with KICKER_GUARD=%s: guard %q, %v, want %q", test.args, test.env, cfg.Guard, err, test.want)
		}
	}
}
