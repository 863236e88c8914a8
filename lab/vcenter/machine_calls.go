package main

import (
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// simulated does a VM's task as the simulator does it.
func (m *machineCalls) simulated(ctx *simulator.Context, method string, call func(*simulator.Context) types.ManagedObjectReference, after func(*simulator.Context)) types.ManagedObjectReference {
	return m.v.startDisturbed(ctx, m.vm, method, func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		var ref types.ManagedObjectReference
		inner := fork(ctx)
		inner.WithLock(m.vm, func() { ref = call(inner) })
		task := m.v.registry.Get(ref).(*simulator.Task)
		task.Wait()
		info := task.Info
		m.v.registry.Remove(fork(ctx), ref)
		if info.Error != nil {
			return nil, info.Error.Fault
		}
		if after != nil {
			after(fork(ctx))
		}
		return info.Result, nil
	})
}

// startDisturbed starts a VM's task that begins after the delay that is set for it, and fails as is set.
func (v *vcenter) startDisturbed(ctx *simulator.Context, vm *simulator.VirtualMachine, method string, do work) types.ManagedObjectReference {
	host := ""
	if on := v.hostOf(vm); on != nil {
		host = on.Name
	}
	delay := v.rules.delay(method, host)
	injected := v.rules.fault(method, host, atTask)
	task := v.tasks.start(ctx, vm, method, func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		time.Sleep(delay.total)
		if injected != nil && !injected.isLate() {
			return nil, injected.make(vm.Self)
		}
		result, fault := do(ctx)
		if fault == nil && injected != nil {
			return nil, injected.make(vm.Self)
		}
		return result, fault
	})
	v.rules.loseAnswer(method, host)
	return task
}

// PowerOffVMTask ends the guest too; what was frozen no longer is.
func (m *machineCalls) PowerOffVMTask(ctx *simulator.Context, req *types.PowerOffVM_Task) soap.HasFault {
	task := m.simulated(ctx, "PowerOffVM_Task", func(ctx *simulator.Context) types.ManagedObjectReference {
		return m.vm.PowerOffVMTask(ctx, req).(*methods.PowerOffVM_TaskBody).Res.Returnval
	}, func(ctx *simulator.Context) {
		m.v.setFrozen(ctx, m.vm, false)
		m.v.guests.end(m.vm.Self)
	})
	return &methods.PowerOffVM_TaskBody{Res: &types.PowerOffVM_TaskResponse{Returnval: task}}
}

// PowerOnVMTask boots the guest anew.
func (m *machineCalls) PowerOnVMTask(ctx *simulator.Context, req *types.PowerOnVM_Task) soap.HasFault {
	task := m.simulated(ctx, "PowerOnVM_Task", func(ctx *simulator.Context) types.ManagedObjectReference {
		return m.vm.PowerOnVMTask(ctx, req).(*methods.PowerOnVM_TaskBody).Res.Returnval
	}, func(*simulator.Context) {
		m.v.guests.begin(m.vm, nil)
	})
	return &methods.PowerOnVM_TaskBody{Res: &types.PowerOnVM_TaskResponse{Returnval: task}}
}

// ReconfigVMTask is the simulator's.
func (m *machineCalls) ReconfigVMTask(ctx *simulator.Context, req *types.ReconfigVM_Task) soap.HasFault {
	var taken types.BaseMethodFault
	ctx.WithLock(m.vm, func() { taken = checkPorts(m.vm, req.Spec.DeviceChange) })
	if taken != nil {
		task := m.v.startDisturbed(ctx, m.vm, "ReconfigVM_Task", func(*simulator.Context) (types.AnyType, types.BaseMethodFault) {
			return nil, taken
		})
		return &methods.ReconfigVM_TaskBody{Res: &types.ReconfigVM_TaskResponse{Returnval: task}}
	}
	task := m.simulated(ctx, "ReconfigVM_Task", func(ctx *simulator.Context) types.ManagedObjectReference {
		return m.vm.ReconfigVMTask(ctx, req).(*methods.ReconfigVM_TaskBody).Res.Returnval
	}, nil)
	return &methods.ReconfigVM_TaskBody{Res: &types.ReconfigVM_TaskResponse{Returnval: task}}
}

// DestroyTask gives back what the VM held of its host and its datastore.
func (m *machineCalls) DestroyTask(ctx *simulator.Context, req *types.Destroy_Task) soap.HasFault {
	task := m.simulated(ctx, "Destroy_Task", func(ctx *simulator.Context) types.ManagedObjectReference {
		return m.vm.DestroyTask(ctx, req).(*methods.Destroy_TaskBody).Res.Returnval
	}, func(ctx *simulator.Context) {
		m.v.giveBack(ctx, m.vm)
	})
	return &methods.Destroy_TaskBody{Res: &types.Destroy_TaskResponse{Returnval: task}}
}

func (v *vcenter) giveBack(ctx *simulator.Context, vm *simulator.VirtualMachine) {
	host := v.hostOf(vm)
	ctx.WithLock(host, func() {
		host.Summary.QuickStats.OverallMemoryUsage -= vm.Config.Hardware.MemoryMB
	})
	datastore, ok := v.registry.Get(v.world.datastore).(*simulator.Datastore)
	if !ok {
		return
	}
	ctx.WithLock(datastore, func() {
		datastore.Summary.FreeSpace += childBytes
		datastore.Info.GetDatastoreInfo().FreeSpace = datastore.Summary.FreeSpace
	})
}

// setFrozen marks the VM; while it is frozen its tools do not run.
func (v *vcenter) setFrozen(ctx *simulator.Context, vm *simulator.VirtualMachine, frozen bool) {
	ctx.WithLock(vm, func() {
		on := vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
		setTools(vm, on && !frozen)
		// Set here, because the simulator's update cannot assign to a pointer; the update tells who watches.
		vm.Runtime.InstantCloneFrozen = types.NewBool(frozen)
		vm.Summary.Runtime = vm.Runtime
		ctx.Update(vm, []types.PropertyChange{{Name: "guest.toolsRunningStatus", Val: vm.Guest.ToolsRunningStatus}})
	})
}
