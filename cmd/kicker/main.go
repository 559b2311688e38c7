// Command kicker kicks the machines whose configuration is made from other machines, when those come and go.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// What kicker exits with.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3 // the controller can't be reached, refuses the token, or is not synced
	exitEmpty       = 4 // nothing found, with --fail-empty
	exitTimeout     = 5
)

// exitError is an error that knows what to exit with. Any other error of a command exits with exitFailed. Without an err
// nothing is printed: the command has said it all.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

func (e exitError) Unwrap() error { return e.err }

// usageError is a mistake in how the command was called; it should say how to call it instead.
func usageError(format string, args ...any) error {
	return exitError{exitUsage, fmt.Errorf(format, args...)}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	cmd, err := newRoot().ExecuteContextC(ctx)
	if err == nil {
		return
	}
	var exit exitError
	if !errors.As(err, &exit) { // cobra refused it before the command ran
		err = usageError("%w: see %s --help", err, cmd.CommandPath())
		errors.As(err, &exit)
	}
	if exit.err != nil {
		fmt.Fprintln(os.Stderr, "kicker:", err)
	}
	os.Exit(exit.code)
}

// newRoot is the whole command line. To add a command: `func xxxCommand() *cobra.Command` in xxx.go, and a line here.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "kicker",
		Short:         "Kicks the machines whose configuration is made from other machines, when those come and go",
		SilenceErrors: true, // main prints them
		SilenceUsage:  true,
	}
	root.PersistentFlags().String("config", "", "configuration `file` (default: KICKER_CONFIG, ./kicker.yaml, /etc/kicker/kicker.yaml)")
	root.AddCommand(
		acceptLossCommand(),
		agentCommand(),
		configCommand(),
		controllerCommand(),
		demoCommand(),
		demoNodeCommand(),
		demoReloadCommand(),
		eventsCommand(),
		expectLossCommand(),
		explainCommand(),
		inventoryCommand(),
		kickCommand(),
		leaveCommand(),
		planCommand(),
		renderCommand(),
		rolesCommand(),
		runsCommand(),
		shimCommand(),
		statusCommand(),
		versionCommand(),
	)
	finish(root)
	return root
}

// finish makes every command's own errors exit with exitFailed unless they say otherwise, and makes a command that only
// groups others refuse what it does not know, where cobra would print its help and exit 0.
func finish(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		finish(sub)
	}
	if cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.Args = knownCommand
		cmd.SuggestionsMinimumDistance = 2
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		return
	}
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := run(cmd, args)
		var exit exitError
		if err == nil || errors.As(err, &exit) {
			return err
		}
		return exitError{exitFailed, err}
	}
}

func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	remedy := fmt.Sprintf("see %s --help", cmd.CommandPath())
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		remedy = fmt.Sprintf("did you mean %q?", near[0])
	}
	return usageError("unknown command %q: %s", args[0], remedy)
}
