package main

import (
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// freezing finds the freeze in a command line of a shell's, and for how long it sleeps before.
var freezing = regexp.MustCompile(`^(?:/bin/sh -c '(?:sleep (\d+); *)?(?:exec )?)?\S*vmware-rpctool ["']?instantclone\.freeze["']?'?$`)

// programs are those that were started in guests.
type programs struct {
	mutex sync.Mutex
	last  int64
	all   map[types.ManagedObjectReference][]types.GuestProcessInfo
}

func newPrograms() *programs {
	return &programs{last: 1000, all: map[types.ManagedObjectReference][]types.GuestProcessInfo{}}
}

// processCalls is the process manager of guest operations, as far as a fork needs it.
type processCalls struct {
	freeLock
	Self types.ManagedObjectReference
	v    *vcenter
}

func (p *processCalls) Reference() types.ManagedObjectReference { return p.Self }

// StartProgramInGuest knows one program that does something: the one that freezes the VM. The tools tell its number a
// moment after its start; once the VM stands still they tell nothing any more.
func (p *processCalls) StartProgramInGuest(ctx *simulator.Context, req *types.StartProgramInGuest) soap.HasFault {
	body := new(methods.StartProgramInGuestBody)
	vm, wrong := p.v.operate(ctx, req.Vm, req.Auth)
	if wrong != nil {
		body.Fault_ = simulator.Fault("", wrong)
		return body
	}
	spec := req.Spec.GetGuestProgramSpec()
	programs := p.v.programs
	programs.mutex.Lock()
	programs.last++
	pid := programs.last
	line := strings.TrimSpace(spec.ProgramPath + " " + spec.Arguments)
	owner := req.Auth.(*types.NamePasswordAuthentication).Username
	programs.all[req.Vm] = append(programs.all[req.Vm], types.GuestProcessInfo{
		Name: path.Base(spec.ProgramPath), Pid: pid, Owner: owner,
		CmdLine: line, StartTime: time.Now(),
	})
	programs.mutex.Unlock()
	if found := freezing.FindStringSubmatch(line); found != nil {
		sleep, _ := strconv.Atoi(found[1])
		if sleep == 0 {
			p.v.freeze(vm)
			body.Fault_ = simulator.Fault("", new(types.GuestOperationsUnavailable))
			return body
		}
		time.AfterFunc(time.Duration(sleep)*time.Second, func() { p.v.freeze(vm) })
	}
	p.v.rules.loseAnswer("StartProgramInGuest", p.v.hostNameOf(req.Vm))
	body.Res = &types.StartProgramInGuestResponse{Returnval: pid}
	return body
}

// ListProcessesInGuest cannot be asked once the VM is frozen: whoever waits for the freezing program to end fails.
func (p *processCalls) ListProcessesInGuest(ctx *simulator.Context, req *types.ListProcessesInGuest) soap.HasFault {
	body := new(methods.ListProcessesInGuestBody)
	if _, wrong := p.v.operate(ctx, req.Vm, req.Auth); wrong != nil {
		body.Fault_ = simulator.Fault("", wrong)
		return body
	}
	wanted := map[int64]bool{}
	for _, pid := range req.Pids {
		wanted[pid] = true
	}
	body.Res = new(types.ListProcessesInGuestResponse)
	p.v.programs.mutex.Lock()
	defer p.v.programs.mutex.Unlock()
	for _, process := range p.v.programs.all[req.Vm] {
		if len(wanted) == 0 || wanted[process.Pid] {
			body.Res.Returnval = append(body.Res.Returnval, process)
		}
	}
	return body
}

// operate finds the VM of a guest operation that may go on.
func (v *vcenter) operate(ctx *simulator.Context, ref types.ManagedObjectReference, auth types.BaseGuestAuthentication) (*simulator.VirtualMachine, types.BaseMethodFault) {
	vm := v.machine(ref)
	if vm == nil {
		return nil, &types.ManagedObjectNotFound{Obj: ref}
	}
	var state types.VirtualMachinePowerState
	var frozen bool
	ctx.WithLock(vm, func() { state, frozen = vm.Runtime.PowerState, isFrozen(vm) })
	if state != types.VirtualMachinePowerStatePoweredOn {
		return nil, &types.InvalidPowerState{RequestedState: types.VirtualMachinePowerStatePoweredOn, ExistingState: state}
	}
	if frozen {
		return nil, new(types.GuestOperationsUnavailable)
	}
	who, ok := auth.(*types.NamePasswordAuthentication)
	if !ok || who.Username != v.options.guestUser || who.Password != v.options.guestPass {
		return nil, new(types.InvalidGuestLogin)
	}
	return vm, nil
}

// freeze stops the VM where it can be forked, a moment after the guest asked for it.
func (v *vcenter) freeze(vm *simulator.VirtualMachine) {
	host := v.hostOf(vm)
	time.Sleep(v.rules.delay("freeze", host.Name).total)
	v.guests.stop(vm.Self)
	v.setFrozen(v.context(), vm, true)
}
