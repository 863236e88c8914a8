package main

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// tasks are ours and not the simulator's own, because that one holds the lock of a task's VM while the task runs:
// nobody could read a parent for as long as it is forked.
type tasks struct {
	v    *vcenter
	last atomic.Int64
}

type work func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault)

// start runs *do* as a task of the VM and gives the task at once, as vCenter does.
func (t *tasks) start(ctx *simulator.Context, vm *simulator.VirtualMachine, method string, do work) types.ManagedObjectReference {
	ctx = fork(ctx)
	task := simulator.CreateTask(vm.Self, method, nil)
	task.Info.Name, task.Info.DescriptionId = method, "VirtualMachine."+descriptions[method]
	task.Self = types.ManagedObjectReference{Type: "Task", Value: fmt.Sprintf("task-f%d", t.last.Add(1))}
	task.Info.Key, task.Info.Task = task.Self.Value, task.Self
	task.Info.EntityName = vm.Name
	now := time.Now()
	task.Info.StartTime, task.Info.State = &now, types.TaskInfoStateRunning
	if ctx.Session != nil {
		task.Info.Reason = &types.TaskReasonUser{UserName: ctx.Session.UserName}
	}
	t.v.registry.Put(task)
	go func() {
		result, fault := do(fork(ctx))
		changes := []types.PropertyChange{{Name: "info.completeTime", Val: time.Now()}}
		if fault != nil {
			wrong := types.LocalizedMethodFault{Fault: fault, LocalizedMessage: describe(fault)}
			changes = append(changes, types.PropertyChange{Name: "info.error", Val: wrong},
				types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateError})
		} else {
			changes = append(changes, types.PropertyChange{Name: "info.result", Val: result},
				types.PropertyChange{Name: "info.state", Val: types.TaskInfoStateSuccess})
		}
		t.v.registry.AtomicUpdate(fork(ctx), task, changes)
	}()
	return task.Self
}

// enterMaintenance lets a host have a task that takes it to maintenance and does not end: a VM that runs is in its way.
func (v *vcenter) enterMaintenance(host *simulator.HostSystem, begin bool) {
	for _, ref := range host.RecentTask {
		v.registry.Remove(v.context(), ref)
	}
	host.RecentTask = nil
	if !begin {
		return
	}
	task := simulator.CreateTask(host.Self, "enterMaintenanceMode", nil)
	now := time.Now()
	task.Self = types.ManagedObjectReference{Type: "Task", Value: fmt.Sprintf("task-f%d", v.tasks.last.Add(1))}
	task.Info.Key, task.Info.Task, task.Info.EntityName = task.Self.Value, task.Self, host.Name
	task.Info.Name, task.Info.DescriptionId = "EnterMaintenanceMode_Task", "HostSystem.enterMaintenanceMode"
	task.Info.StartTime, task.Info.State = &now, types.TaskInfoStateRunning
	v.registry.Put(task)
	host.RecentTask = []types.ManagedObjectReference{task.Self}
}

// forget all tasks, as a vCenter does that starts again: whoever waits for one learns no outcome.
func (t *tasks) forget() {
	for _, task := range t.v.registry.AllReference("Task") {
		t.v.registry.Remove(t.v.context(), task.Reference())
	}
}

// describe is the sentence that vCenter sends along with a fault.
func describe(fault types.BaseMethodFault) string {
	switch f := fault.(type) {
	case *types.DuplicateName:
		return fmt.Sprintf("The name '%s' already exists.", f.Name)
	case *types.NoDiskSpace:
		return fmt.Sprintf("Insufficient disk space on datastore '%s'.", f.Datastore)
	case *types.InsufficientMemoryResourcesFault:
		return "The host does not have enough memory."
	case *types.GenericVmConfigFault:
		return f.Reason
	case *types.CustomizationFault:
		if len(f.FaultMessage) > 0 {
			return f.FaultMessage[0].Message
		}
	case *types.NoPermission:
		return "Permission to perform this operation was denied."
	}
	return fmt.Sprintf("%T", fault)[len("*types."):]
}

var descriptions = map[string]string{
	"InstantClone_Task": "instantClone", "CheckInstantClone_Task": "checkInstantClone", "PowerOffVM_Task": "powerOff",
	"CustomizeGuest_Task": "customize", "StartGuestNetwork_Task": "startNetwork", "AbortCustomization_Task": "abortCustomization",
	"PowerOnVM_Task": "powerOn", "Destroy_Task": "destroy", "ReconfigVM_Task": "reconfigure",
}
