//go:build !linux

package demo

import (
	"errors"
	"syscall"
)

func adoptOrphans() error { return errors.New("it needs Linux") }

func dieWithParent() *syscall.SysProcAttr { return nil }
