// Command kicker watches which machines are alive, and runs actions on the machines that depend on them.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kicker/cmd/kicker/internal/client"
)

// The exit codes of kicker.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3 // the controller does not answer, rejects the token, or is not synced
	exitEmpty       = 4 // nothing found, with --fail-empty
	exitTimeout     = 5
	exitPerson      = 6 // what it waits for only a person can end
)

// exitCodes are the exit codes for a client.Error, by its status. Others are failures.
var exitCodes = map[int]int{
	0:                             exitUnreachable,
	http.StatusUnauthorized:       exitUnreachable,
	http.StatusServiceUnavailable: exitUnreachable,
	http.StatusBadRequest:         exitUsage,
	http.StatusGatewayTimeout:     exitTimeout,
}

// exitError is an error with an exit code. Without an error nothing more is printed.
type exitError struct {
	code int
	error
}

// usageError is a mistake in how the command was called. It should say how to call it instead.
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
	exit, ok := errors.AsType[exitError](err)
	if !ok { // cobra rejected it before the command ran
		exit = exitError{exitUsage, fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())}
	}
	if exit.error != nil {
		fmt.Fprintln(os.Stderr, "kicker:", exit.error)
	}
	os.Exit(exit.code)
}

// newRoot is the whole command line. A command is a function in a file of its own, and a line here.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "kicker",
		Short:         "Watches which machines are alive, and runs actions on the machines that depend on them",
		SilenceErrors: true, // main prints them
		SilenceUsage:  true,
	}
	const files = "configuration `file` (default: KICKER_CONFIG, ./kicker.yaml, /etc/kicker/kicker.yaml)"
	root.PersistentFlags().String("config", "", files)
	root.AddCommand(
		acceptLossCommand(),
		onLinux(runtime.GOOS, agentCommand()),
		configCommand(),
		onLinux(runtime.GOOS, controllerCommand()),
		onLinux(runtime.GOOS, demoCommand()),
		onLinux(runtime.GOOS, demoNodeCommand()),
		onLinux(runtime.GOOS, demoReloadCommand()),
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
		onLinux(runtime.GOOS, shimCommand()),
		statusCommand(),
		versionCommand(),
	)
	finish(root)
	return root
}

// onLinux makes a command that only Linux can run say so on another system.
func onLinux(system string, cmd *cobra.Command) *cobra.Command {
	if system != "linux" {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error {
			return fmt.Errorf("%s needs Linux, and this is %s: run it on a Linux machine", cmd.CommandPath(), system)
		}
	}
	return cmd
}

// finish gives errors their exit codes. A command that only groups others rejects unknown ones, where cobra succeeds.
func finish(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		finish(sub)
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if short, ok := strings.CutSuffix(f.DefValue, "m0s"); ok { // 5m0s is 5m in the help
			f.DefValue = short + "m"
		}
	})
	if cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.Args = knownCommand
		cmd.SuggestionsMinimumDistance = 2
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		return
	}
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := run(cmd, args)
		if _, ok := errors.AsType[exitError](err); ok || err == nil {
			return err
		}
		if answer, ok := errors.AsType[*client.Error](err); ok {
			return exitError{cmp.Or(exitCodes[answer.Status], exitFailed), err}
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
