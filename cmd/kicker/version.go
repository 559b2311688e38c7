package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set when a release is built.
var version = "dev"

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which kicker this is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			built := fmt.Sprintf("%s, %s %s/%s", commit(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "kicker %s (%s)\n", version, built)
			return err
		},
	}
}

// commit is what the binary was built from, as far as it is known.
func commit() string {
	id, dirty := "unknown commit", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				id = s.Value[:min(12, len(s.Value))]
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = "+changes"
			}
		}
	}
	return id + dirty
}
