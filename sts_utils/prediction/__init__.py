"""Which domains will fine-tuning on my data move?"""
