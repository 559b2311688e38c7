package main

import (
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// outputFlag gives a command -o with these formats. The first one is the default.
func outputFlag(cmd *cobra.Command, formats ...string) {
	cmd.Flags().StringP("output", "o", formats[0], "print in this `format`: "+strings.Join(formats, ", "))
	args := cmd.Args
	cmd.Args = func(cmd *cobra.Command, given []string) error {
		if got := output(cmd); !slices.Contains(formats, got) {
			return usageError("-o %s: choose one of %s", got, strings.Join(formats, ", "))
		}
		return args(cmd, given)
	}
	complete := cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)
	_ = cmd.RegisterFlagCompletionFunc("output", complete) // the flag exists
}

func output(cmd *cobra.Command) string { return cmd.Flag("output").Value.String() }

// show prints an answer: with -o json as it came, else as text.
func show(cmd *cobra.Command, raw []byte, text string) error {
	if output(cmd) == "json" {
		text = string(raw)
	}
	_, err := io.WriteString(cmd.OutOrStdout(), text)
	return err
}
