"""BibTeX of the papers that the losses follow, for model cards."""

TWO_D_MATRYOSHKA = """
@misc{li2024twodimensional,
    title={2D Matryoshka Sentence Embeddings},
    author={Xianming Li and Zongxi Li and Jing Li and Haoran Xie and Qing Li},
    year={2024},
    eprint={2402.14776},
    archivePrefix={arXiv}
}
"""

ESPRESSO = """
@inproceedings{li2025ese,
    title={ESE: Espresso Sentence Embeddings},
    author={Xianming Li and Zongxi Li and Jing Li and Haoran Xie and Qing Li},
    booktitle={ICLR},
    year={2025},
    url={https://arxiv.org/abs/2402.14776v2}
}
"""

STARBUCKS = """
@misc{zhuang2024starbucks,
    title={Starbucks: Improved Training for 2D Matryoshka Embeddings},
    author={Shengyao Zhuang and Shuai Wang and Bevan Koopman and Guido Zuccon},
    year={2024},
    eprint={2410.13230},
    archivePrefix={arXiv}
}
"""

GENERATION_RETRIEVAL = """
@misc{man2024ullme,
    title={ULLME: A Unified Framework for Large Language Model Embeddings with Generation-Augmented Learning},
    author={Hieu Man and Nghia Trung Ngo and Franck Dernoncourt and Thien Huu Nguyen},
    year={2024},
    eprint={2408.03402},
    archivePrefix={arXiv}
}
"""

NV_EMBED = """
@misc{lee2024nvembed,
    title={NV-Embed: Improved Techniques for Training LLMs as Generalist Embedding Models},
    author={Lee, Chankyu and Roy, Rajarshi and Xu, Mengyao and Raiman, Jonathan and Shoeybi, Mohammad and others},
    year={2024},
    eprint={2405.17428},
    archivePrefix={arXiv}
}
"""

DIALOG2FLOW = """
@inproceedings{burdisso2024dialog2flow,
    title={Dialog2Flow: Pre-training Soft-Contrastive Action-Driven Sentence Embeddings for Automatic Dialog Flow Extraction},
    author={Sergio Burdisso and Srikanth Madikeri and Petr Motlicek},
    booktitle={EMNLP},
    year={2024},
    url={https://arxiv.org/abs/2410.18481}
}
"""  # noqa: E501

DEFSENT_PLUS = """
@misc{liu2024defsent,
    title={DefSent+: Improving sentence embeddings of language models by projecting definition sentences into a quasi-isotropic or isotropic vector space of unlimited dictionary entries},
    author={Xiaodong Liu},
    year={2024},
    eprint={2405.16153},
    archivePrefix={arXiv}
}
"""  # noqa: E501

METRIX = """
@inproceedings{venkataramanan2022metrix,
    title={It Takes Two to Tango: Mixup for Deep Metric Learning},
    author={Shashanka Venkataramanan and Bill Psomas and Ewa Kijak and Laurent Amsaleg and others},
    booktitle={ICLR},
    year={2022},
    url={https://arxiv.org/abs/2106.04990}
}
"""

ORTHOGONAL_PROJECTION = """
@inproceedings{ranasinghe2021orthogonal,
    title={Orthogonal Projection Loss},
    author={Kanchana Ranasinghe and Muzammal Naseer and Munawar Hayat and Salman Khan and Fahad Shahbaz Khan},
    booktitle={ICCV},
    year={2021},
    url={https://arxiv.org/abs/2103.14021}
}
"""

GIST = """
@misc{solatorio2024gistembed,
    title={GISTEmbed: Guided In-sample Selection of Training Negatives for Text Embedding Fine-tuning},
    author={Aivin V. Solatorio},
    year={2024},
    eprint={2402.16829},
    archivePrefix={arXiv}
}
"""

INDIVIDUAL_TEMPERATURE = """
@inproceedings{qiu2023semantics,
    title={Not All Semantics are Created Equal: Contrastive Self-supervised Learning \
with Automatic Temperature Individualization},
    author={Zi-Hao Qiu and Quanqi Hu and Zhuoning Yuan and Denny Zhou and Lijun Zhang and Tianbao Yang},
    booktitle={ICML},
    year={2023},
    url={https://arxiv.org/abs/2305.11965}
}
"""

MANIFOLD_INSTANCE_MIXUP = """
@misc{zhou2024dnaberts,
    title={DNABERT-S: Pioneering Species Differentiation with Species-Aware DNA Embeddings},
    author={Zhihan Zhou and Weimin Wu and Harrison Ho and Jiayi Wang and Lizhen Shi and Ramana V Davuluri \
and Zhong Wang and Han Liu},
    year={2024},
    eprint={2402.08777},
    archivePrefix={arXiv}
}
"""

MOMENTUM_QUEUE = """
@misc{wu2021esimcse,
    title={ESimCSE: Enhanced Sample Building Method for Contrastive Learning of Unsupervised Sentence Embedding},
    author={Xing Wu and Chaochen Gao and Liangjun Zang and Jizhong Han and Zhongyuan Wang and Songlin Hu},
    year={2021},
    eprint={2109.04380},
    archivePrefix={arXiv}
}
"""

JPQ = """
@misc{zhan2021jpq,
    title={Jointly Optimizing Query Encoder and Product Quantization to Improve Retrieval Performance},
    author={Jingtao Zhan and Jiaxin Mao and Yiqun Liu and Jiafeng Guo and Min Zhang and Shaoping Ma},
    year={2021},
    eprint={2108.00644},
    archivePrefix={arXiv}
}
"""

REPCONC = """
@misc{zhan2021repconc,
    title={Learning Discrete Representations via Constrained Clustering for Effective and Efficient Dense Retrieval},
    author={Jingtao Zhan and Jiaxin Mao and Yiqun Liu and Jiafeng Guo and Min Zhang and Shaoping Ma},
    year={2021},
    eprint={2110.05789},
    archivePrefix={arXiv}
}
"""
