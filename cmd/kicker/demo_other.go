//go:build !linux

package main

import (
	"errors"
	"syscall"
)

func adoptOrphans() error { return errors.New("it needs Linux") }

func dieWithParent() *syscall.SysProcAttr { return nil }
