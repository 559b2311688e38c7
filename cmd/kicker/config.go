package main

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kicker/config"
)

func configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check and show the configuration"}
	cmd.AddCommand(
		&cobra.Command{
			Use:   "validate",
			Short: "List all mistakes in the configuration, before a restart does",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				o := configOptions(cmd)
				o.Listens = true
				_, err := config.Load(o)
				if problems, ok := errors.AsType[config.Problems](err); ok {
					fmt.Fprintln(cmd.ErrOrStderr(), problems)
					return exitError{code: exitFailed}
				}
				if err != nil {
					return err
				}
				file, _ := config.Find(o) // Load has found it
				const none = "no configuration file, defaults and environment"
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", cmp.Or(file, none))
				return err
			},
		},
		&cobra.Command{
			Use:   "show",
			Short: "Show the settings in force, and where each comes from",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return config.Show(configOptions(cmd), cmd.OutOrStdout())
			},
		},
	)
	return cmd
}

const configKey = "kicker/config-key"

// bindFlags makes flags of cmd set keys of the configuration. A flag's own default is for its help only.
func bindFlags(cmd *cobra.Command, keys map[string]string) {
	for flag, key := range keys {
		if err := cmd.Flags().SetAnnotation(flag, configKey, []string{key}); err != nil {
			panic(err) // there is no such flag
		}
	}
}

// configOptions are where cmd's configuration comes from: --config and the flags that were bound with bindFlags.
func configOptions(cmd *cobra.Command) config.Options {
	o := config.Options{Flags: map[string]*pflag.Flag{}}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name == "config" {
			o.File = f.Value.String()
		}
		for _, key := range f.Annotations[configKey] {
			o.Flags[key] = f
		}
	})
	return o
}
