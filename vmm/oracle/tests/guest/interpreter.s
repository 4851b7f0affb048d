# Carries out a program (ipirig_oracle::Program) and writes down what each CPU sees (ipirig_oracle::Log). On top of
# runtime.s, whose registers R13 to R15 it leaves alone.
#
#   RBX  the step that is being carried out     RBP  what this CPU keeps     R10  the step's number
#   R12  the log of this CPU: the number of its entries, then each in 8 bytes
#
#   0x400000 the program: number of steps, of CPUs, whether to stay in xAPIC mode; then 16 bytes a step
#   0x610000 stacks of 64 KiB, which grow down        0x700000 what CPUs keep, a page each
#   0x800000 logs, 1 MiB each
#
# What a CPU keeps: +0 how many steps it was given, +8 how many it is through with, +16 and +32 the last one's
# address and number, +24 bit 0: handlers end their interrupt, bit 1: they turn interrupts on before, +28 how
# many are to send an IPI, +72 how far above their own vector, +40 how many NMIs the next NMI handler is to send, +44 an
# access raised #GP, +48 interrupts written down, +56 the vector that is not written down, +60 how often it came,
# +64 this CPU is up.

.globl oracle_start

oracle_start:
    call rt_setup
    mov esi, 0x20
    lea rax, [rip + oracle_stubs]
    mov edx, 8
    call rt_gates
    mov edi, 2
    lea rax, [rip + oracle_nmi]
    call rt_gate
    mov edi, 13
    lea rax, [rip + oracle_gp]
    call rt_gate
    mov al, byte ptr [0x400010]
    mov byte ptr [0x13ff8], al
    call rt_apic_on
    call oracle_prepare
    mov r8d, 1
2:  cmp r8, qword ptr [0x400008]
    jae 4f
    lea rax, [rip + oracle_ap]
    call rt_start_ap
    mov eax, r8d
    shl eax, 12
3:  pause
    cmp qword ptr [rax + 0x700000 + 64], 1
    jne 3b
    inc r8d
    jmp 2b
4:  mov ebx, 0x400018
    xor r10d, r10d
5:  cmp r10, qword ptr [0x400000]
    je 9f
    movzx ecx, byte ptr [rbx + 1]
    call oracle_on
    test byte ptr [rbx + 3], 0x80
    jz 8f
    # Each CPU leaves the guest once, and takes what it was sent.
    push rbx
    lea rbx, [rip + oracle_silent]
    xor r8d, r8d
6:  mov ecx, r8d
    call oracle_on
    inc r8d
    cmp r8, qword ptr [0x400008]
    jb 6b
    pop rbx
8:  add rbx, 16
    inc r10
    jmp 5b
9:  cli
    call rt_ring
    jmp rt_rest

# Another CPU: does what it is given.
oracle_ap:
    call oracle_prepare
    mov qword ptr [rbp + 64], 1
21: mov rax, qword ptr [rbp]
    cmp rax, qword ptr [rbp + 8]
    jne 2f
    pause
    jmp 21b
2:  mov rbx, qword ptr [rbp + 16]
    mov r10, qword ptr [rbp + 32]
    cmp byte ptr [rbx], 17
    je 3f
    call oracle_execute
    mov rax, qword ptr [rbp]
    mov qword ptr [rbp + 8], rax
    jmp 21b
    # Nobody waits for it: it is through before it begins.
3:  push qword ptr [rbp + 48]
    mov rax, qword ptr [rbp]
    mov qword ptr [rbp + 8], rax
4:  sti
    hlt
    cli
    mov rax, qword ptr [rsp]
    cmp rax, qword ptr [rbp + 48]
    je 4b
    add rsp, 8
    jmp 21b

# RSP, RBP and R12 of this CPU.
oracle_prepare:
    pop rax
    mov ecx, r13d
    shl ecx, 16
    lea esp, [ecx + 0x610000]
    mov ebp, r13d
    shl ebp, 12
    add ebp, 0x700000
    mov r12d, r13d
    shl r12d, 20
    add r12d, 0x800000
    mov byte ptr [rbp + 24], 1
    jmp rax

# Has CPU ECX carry out step RBX.
oracle_on:
    cmp ecx, r13d
    je oracle_execute
    shl ecx, 12
    add ecx, 0x700000
    mov qword ptr [rcx + 16], rbx
    mov qword ptr [rcx + 32], r10
    inc qword ptr [rcx]
    mov rax, qword ptr [rcx]
21: pause
    cmp qword ptr [rcx + 8], rax
    jne 21b
    ret

# Carries out step RBX here. What follows changes RAX, RCX, RDX, RSI and RDI only.
oracle_execute:
    cmp byte ptr [rbx], 16
    je oracle_leave
    mov eax, r10d
    mov edi, 5
    call oracle_log
    mov dword ptr [rbp + 44], 0
    movzx esi, byte ptr [rbx]
    lea rdx, [rip + oracle_table]
    movsxd rsi, dword ptr [rdx + 4 * rsi]
    add rdx, rsi
    movzx ecx, byte ptr [rbx + 2]
    mov eax, dword ptr [rbx + 4]
    call rdx
# Exits to user space, on any APIC: what is due comes before the next instruction.
oracle_leave:
    in al, 0x61
    in al, 0x61
    ret

oracle_table:
    .long oracle_do_read - oracle_table
    .long oracle_do_write - oracle_table
    .long oracle_do_send - oracle_table
    .long oracle_do_on - oracle_table
    .long oracle_do_off - oracle_table
    .long oracle_do_cr8 - oracle_table
    .long oracle_do_handlers - oracle_table
    .long oracle_do_dump - oracle_table
    .long oracle_do_one_shot - oracle_table
    .long oracle_do_tsc_deadline - oracle_table
    .long oracle_do_periodic - oracle_table
    .long oracle_do_halt - oracle_table
    .long oracle_do_count - oracle_table
    .long oracle_do_page - oracle_table
    .long oracle_do_base - oracle_table
    .long oracle_do_nothing - oracle_table

# A step that leaves no trace.
oracle_silent:
    .quad 16, 0

# Writes down RAX, of kind EDI. An interrupt between the two writes adds its own entries behind this one.
oracle_log:
    shl rdi, 56
    or rax, rdi
    mov edi, 1
    xadd qword ptr [r12], rdi
    mov qword ptr [r12 + 8 * rdi + 8], rax
    ret

# Writes down what EAX observes.
oracle_observe:
    mov eax, eax
    mov edi, 6
    jmp oracle_log

oracle_do_nothing:
    ret

oracle_do_read:
    mov esi, ecx
    push rsi
    call rt_read
    pop rsi
oracle_value:
    cmp dword ptr [rbp + 44], 0
    jne oracle_refused
    push rdx
    push rsi
    mov eax, eax
    shl rsi, 40
    or rax, rsi
    mov edi, 3
    call oracle_log
    pop rsi
    pop rdx
    # Only the x2APIC's ICR has an upper half.
    test r14d, r14d
    jz 21f
    cmp esi, 0x30
    jne 21f
    mov eax, edx
    mov esi, 0x31
    shl rsi, 40
    or rax, rsi
    mov edi, 3
    call oracle_log
21: ret
oracle_refused:
    mov dword ptr [rbp + 44], 0
    mov eax, esi
    shl rax, 40
    mov edi, 4
    jmp oracle_log

oracle_do_write:
    push rcx
    call rt_write
    pop rsi
    cmp dword ptr [rbp + 44], 0
    jne oracle_refused
    ret

oracle_do_send:
    mov edx, dword ptr [rbx + 8]
    call rt_ipi
    mov esi, 0x30
    cmp dword ptr [rbp + 44], 0
    jne oracle_refused
    ret

oracle_do_on:
    sti
    nop
    ret

oracle_do_off:
    cli
    ret

# With interrupts on: QEMU's TCG (10.0) fails an assertion of its own where CR8 is written while KVM has it tell
# when the guest can take an interrupt (a virtual interrupt on SVM; helper_write_crN).
oracle_do_cr8:
    pushfq
    sti
    nop
    call oracle_leave
    mov eax, dword ptr [rbx + 4]
    mov cr8, rax
    call oracle_leave
    popfq
    mov rax, cr8
    jmp oracle_observe

oracle_do_handlers:
    mov byte ptr [rbp + 24], cl
    mov rcx, qword ptr [rbx + 8]
    mov dword ptr [rbp + 72], ecx
    mov dword ptr [rbp + 28], eax
    movzx eax, byte ptr [rbx + 3]
    mov dword ptr [rbp + 40], eax
    ret

oracle_do_dump:
    lea rsi, [rip + oracle_registers]
21: movzx ecx, byte ptr [rsi]
    test ecx, ecx
    jz 2f
    inc rsi
    push rsi
    call oracle_do_read
    pop rsi
    jmp 21b
2:  test r14d, r14d
    jnz 3f
    mov ecx, 0x0e
    call oracle_do_read
    mov ecx, 0x31
    call oracle_do_read
3:  mov rax, cr8
    call oracle_observe
    mov ecx, 0x1b
    rdmsr
    jmp oracle_observe
oracle_registers:
    .byte 0x02, 0x08, 0x0a, 0x0d, 0x0f, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17
    .byte 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27
    .byte 0x30, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x3e, 0

# The timer's LVT entry becomes the step's vector, with the bits of EAX.
oracle_timer:
    movzx ecx, byte ptr [rbx + 2]
    or eax, ecx
    mov ecx, 0x32
    jmp rt_write

# The timer is masked and stopped.
oracle_timer_off:
    mov eax, 0x10000
    call oracle_timer
    mov ecx, 0x38
    xor eax, eax
    call rt_write
    jmp oracle_leave

# The timer's count divides by 1.
oracle_divide:
    mov ecx, 0x3e
    mov eax, 0x0b
    jmp rt_write

# What a timer that has expired left: the part of the IRR with its vector.
oracle_pending:
    movzx ecx, byte ptr [rbx + 2]
    shr ecx, 5
    add ecx, 0x20
    jmp oracle_do_read

# The timer's count was zero a moment ago: waits until its interrupt was taken or is pending; some time where it
# is masked. How many had been written down before is on the stack, above the return address.
oracle_expired:
    mov ecx, 0x32
    call rt_read
    bt eax, 16
    jc 3f
    mov edi, 50000
21: in al, 0x61
    mov rax, qword ptr [rsp + 8]
    cmp rax, qword ptr [rbp + 48]
    jne 2f
    movzx ecx, byte ptr [rbx + 2]
    shr ecx, 5
    add ecx, 0x20
    call rt_read
    movzx ecx, byte ptr [rbx + 2]
    bt eax, ecx
    jc 2f
    dec edi
    jnz 21b
2:  ret
3:  mov edi, 50
31: in al, 0x61
    dec edi
    jnz 31b
    ret

oracle_do_one_shot:
    mov ecx, 0x3e
    mov eax, dword ptr [rbx + 8]
    call rt_write
    movzx eax, byte ptr [rbx + 3]
    and eax, 1
    shl eax, 16
    call oracle_timer
    push qword ptr [rbp + 48]
    mov ecx, 0x38
    mov eax, dword ptr [rbx + 4]
    call rt_write
21: mov ecx, 0x39
    call rt_read
    test eax, eax
    jnz 21b
    call oracle_expired
    add rsp, 8
    call oracle_timer_off
    jmp oracle_pending

oracle_do_tsc_deadline:
    push rbx
    mov eax, 1
    cpuid
    pop rbx
    mov eax, 2
    bt ecx, 24
    jnc oracle_observe
    mov eax, 0x40000
    call oracle_timer
    mov ecx, 0x32
    call rt_read
    bt eax, 16
    mov eax, 3
    jc oracle_observe
    push qword ptr [rbp + 48]
    rdtsc
    add eax, dword ptr [rbx + 4]
    adc edx, 0
    mov ecx, 0x6e0
    wrmsr
21: mov ecx, 0x6e0
    rdmsr
    or eax, edx
    jnz 21b
    call oracle_expired
    add rsp, 8
    call oracle_timer_off
    # Outside the mode a write is lost.
    mov ecx, 0x6e0
    mov eax, 1
    mov edx, 0x100000
    wrmsr
    rdmsr
    or eax, edx
    call oracle_observe
    jmp oracle_pending

# Interrupts on, and a timer that may interrupt now? CF is set if not. RFLAGS as they were are on the stack then.
oracle_may_interrupt:
    pop rdi
    pushfq
    push rdi
    sti
    nop
    in al, 0x61
    in al, 0x61
    call oracle_divide
    xor eax, eax
    call oracle_timer
    mov ecx, 0x32
    call rt_read
    bt eax, 16
    jc 21f
    mov ecx, 0x0a
    call rt_read
    or al, 0x0f
    cmp al, byte ptr [rbx + 2]          # CF unless its class is above the priority's
    jae 22f
    clc
21: ret
22: stc
    ret

oracle_do_periodic:
    call oracle_may_interrupt
    jc oracle_may_not
    mov dword ptr [rbp + 60], 0
    movzx eax, byte ptr [rbx + 2]
    mov dword ptr [rbp + 56], eax
    mov eax, 0x20000
    call oracle_timer
    mov ecx, 0x38
    mov eax, dword ptr [rbx + 4]
    call rt_write
    movzx ecx, byte ptr [rbx + 3]
21: in al, 0x61
    cmp dword ptr [rbp + 60], ecx
    jb 21b
    call oracle_timer_off
    mov dword ptr [rbp + 56], 0
    popfq
    mov eax, 1
    jmp oracle_observe
oracle_may_not:
    call oracle_timer_off
    popfq
    xor eax, eax
    jmp oracle_observe

oracle_do_halt:
    call oracle_may_interrupt
    jc oracle_may_not
    push qword ptr [rbp + 48]
    mov ecx, 0x38
    mov eax, dword ptr [rbx + 4]
    call rt_write
21: cli
    mov rax, qword ptr [rsp]
    cmp rax, qword ptr [rbp + 48]
    jne 2f
    sti
    hlt
    jmp 21b
2:  add rsp, 8
    call oracle_timer_off
    popfq
    mov eax, 1
    jmp oracle_observe

oracle_do_count:
    mov ecx, 0x3e
    call rt_write
    mov ecx, 0x38
    mov eax, 0xffffffff
    call rt_write
    mov ecx, 0x39
    call rt_read
    cmp eax, 1                          # CF: it is 0, and has not begun
    sbb eax, eax
    call oracle_observe
    mov ecx, 0x38
    call oracle_do_read
    mov ecx, 0x38
    xor eax, eax
    call rt_write
    mov ecx, 0x39
    call rt_read
    jmp oracle_observe

oracle_do_page:
    mov esi, ecx
    shl ecx, 4
    mov eax, dword ptr [rax + rcx]
    shl rsi, 40
    or rax, rsi
    mov edi, 3
    jmp oracle_log

oracle_do_base:
    mov ecx, 0x1b
    xor edx, edx
    wrmsr
    cmp dword ptr [rbp + 44], 0
    je 21f
    mov esi, 0x1b
    call oracle_refused
21: mov ecx, 0x1b
    rdmsr
    jmp oracle_observe

# RDMSR and WRMSR have two bytes: goes on after them.
oracle_gp:
    add rsp, 8
    mov dword ptr [rbp + 44], 1
    add qword ptr [rsp], 2
    iretq

oracle_nmi:
    push rax
    push rcx
    push rdx
    push rdi
    xor eax, eax
    mov edi, 2
    call oracle_log
    mov edi, dword ptr [rbp + 40]
    mov dword ptr [rbp + 40], 0
21: test edi, edi
    jz 22f
    dec edi
    mov eax, 0x4400
    mov edx, r13d
    call rt_ipi
    jmp 21b
22: pop rdi
    pop rdx
    pop rcx
    pop rax
    iretq

# One stub a vector from 0x20 on, eight bytes each; the return address tells which.
.balign 8
oracle_stubs:
.rept 224
    call oracle_interrupt
    .balign 8
.endr

oracle_interrupt:
    push rax
    push rcx
    push rdx
    push rsi
    push rdi
    mov rsi, qword ptr [rsp + 40]
    lea rax, [rip + oracle_stubs]
    sub rsi, rax
    shr esi, 3
    add esi, 0x20
    cmp esi, dword ptr [rbp + 56]
    je 3f
    inc qword ptr [rbp + 48]
    push rsi
    mov ecx, 0x0a
    call rt_read
    pop rsi
    movzx eax, al
    shl eax, 8
    or eax, esi
    mov edi, 1
    call oracle_log
    cmp dword ptr [rbp + 28], 0
    je 21f
    dec dword ptr [rbp + 28]
    mov eax, esi
    add eax, dword ptr [rbp + 72]
    cmp eax, 0x20
    jb 21f
    cmp eax, 0xfe
    ja 21f
    or eax, 0x44000
    xor edx, edx
    call rt_ipi
21: test byte ptr [rbp + 24], 2
    jz 22f
    sti
    nop
    in al, 0x61
    nop
    cli
22: test byte ptr [rbp + 24], 1
    jz 23f
    call rt_eoi
23: pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rax
    add rsp, 8
    iretq
3:  inc dword ptr [rbp + 60]
    call rt_eoi
    jmp 23b
